//! Lists as they are shown: every form, three widths, with and without colour, at a time that stands still.

use coracle_proto::admin::{Operation, RunningStep};
use coracle_proto::cri::{
    Container, ContainerMetadata, ContainerState, ImageSpec, PodSandbox, PodSandboxMetadata, PodSandboxState,
};

use super::find::Objects;
use super::{lists, not_run, ops};
use crate::cli::{ListArgs, OpsArgs, PickArgs};
use crate::terminal::forms::{NOW, SECOND, forms};
use crate::terminal::{Column, Listing, Row, Screen};

fn id(digit: &str) -> String {
    digit.repeat(64)
}

fn pod(digit: &str, name: &str, age: i64, state: PodSandboxState) -> PodSandbox {
    PodSandbox {
        id: id(digit),
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{digit}"),
            namespace: "shop".to_owned(),
            attempt: 0,
        }),
        state: state.into(),
        created_at: NOW - age * SECOND,
        labels: [("app".to_owned(), name.to_owned())].into(),
        ..PodSandbox::default()
    }
}

fn container(digit: &str, pod: &str, name: &str, image: &str, state: ContainerState) -> Container {
    Container {
        id: id(digit),
        pod_sandbox_id: id(pod),
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
            attempt: 1,
        }),
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        }),
        image_id: format!("sha256:{}", id("e")),
        state: state.into(),
        created_at: NOW - 90 * SECOND,
        ..Container::default()
    }
}

fn objects() -> Objects {
    let long = "a-name-as-long-as-a-deployment-gives-7d9c5b8f6d-x2x7k";
    Objects::new(
        vec![
            pod("a", "web", 59, PodSandboxState::SandboxReady),
            pod("b", long, 86_400 * 3, PodSandboxState::SandboxNotready),
            pod("c", "evil\u{1b}[31m\nname", 7_200, PodSandboxState::SandboxReady),
        ],
        vec![
            container(
                "1",
                "a",
                "nginx",
                "registry.example/team/nginx:1.27",
                ContainerState::ContainerRunning,
            ),
            container(
                "2",
                "b",
                long,
                "docker.io/library/busybox:1",
                ContainerState::ContainerExited,
            ),
        ],
    )
}

fn args() -> ListArgs {
    ListArgs {
        all: true,
        pick: PickArgs::default(),
    }
}

fn show(
    screen: &Screen,
    columns: &[Column],
    rows: impl Iterator<Item = anyhow::Result<Row>>,
) -> anyhow::Result<()> {
    screen.listing(&Listing {
        columns: columns.to_vec(),
        rows: rows.collect::<Result<_, _>>()?,
        nothing: "nothing".to_owned(),
    })
}

#[test]
fn pods_in_every_form() {
    let objects = objects();
    let text = forms(|screen| {
        let row = |pod| lists::pod_row(pod, &objects, &args(), screen);
        show(screen, &lists::POD_COLUMNS, objects.pods.iter().map(row))
    });
    assert!(!text.contains("␛[31m\n"), "a name moves the terminal");
    insta::assert_snapshot!(text);
}

#[test]
fn containers_in_every_form() {
    let objects = objects();
    insta::assert_snapshot!(forms(|screen| {
        let row = |one| lists::container_row(one, &objects, &args(), screen);
        show(
            screen,
            &lists::CONTAINER_COLUMNS,
            objects.containers.iter().map(row),
        )
    }));
}

#[test]
fn operations_in_every_form() {
    let operation = Operation {
        id: 7,
        kind: "run pod sandbox".to_owned(),
        pod_sandbox_id: id("a"),
        name: "shop/web".to_owned(),
        began_at: NOW - 12 * SECOND,
        age_nanos: 12_000_000_000,
        waiting: 0,
        steps: vec![RunningStep {
            name: "run.network".to_owned(),
            age_nanos: 11_500_000_000,
            awaits: "network plugin".to_owned(),
        }],
        ..Operation::default()
    };
    let args = OpsArgs {
        pick: PickArgs::default(),
    };
    insta::assert_snapshot!(forms(|screen| {
        show(
            screen,
            &ops::COLUMNS,
            std::iter::once(ops::row(&operation, &args)),
        )
    }));
}

#[test]
fn a_reader_that_has_left_is_no_failure_of_what_ran() {
    use std::io::{Error, ErrorKind};
    use std::process::ExitCode;

    let failed = |kind: ErrorKind| not_run(Err(anyhow::Error::new(Error::from(kind)).context("write")));
    assert_eq!(failed(ErrorKind::BrokenPipe), ExitCode::SUCCESS);
    assert_eq!(failed(ErrorKind::NotFound), ExitCode::from(125));
}
