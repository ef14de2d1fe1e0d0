//! `prune`: images that nobody uses go, after a question on a terminal or a yes on the command line.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle_proto::admin::{PruneImagesRequest, PruneImagesResponse};
use coracle_proto::client::{Client, ClientError};
use serde_json::json;

use super::images;
use crate::cli::{Output, PruneArgs};
use crate::terminal::{self, Screen, Status, Trouble};

/// Tells, asks, and removes.
pub(crate) async fn run(client: &Client, args: &PruneArgs, screen: &Screen) -> anyhow::Result<()> {
    let mut request = PruneImagesRequest {
        all: args.all,
        before: before(&args.filter, SystemTime::now())?,
        dry_run: true,
    };
    if asks(args, io::stdin().is_terminal())? {
        let found = call(client, request).await?;
        if found.images.is_empty() {
            terminal::remark("no image would go; layers that no image needs are removed");
        } else if !confirmed(&found)? {
            return Err(Trouble::new("nothing was removed").into());
        }
    }
    request.dry_run = args.dry_run;
    let found = call(client, request).await?;
    show(&found, args.dry_run, screen)
}

/// Whether a person is asked first; where none can be, the command line must have said yes.
fn asks(args: &PruneArgs, on_terminal: bool) -> Result<bool, Trouble> {
    if args.dry_run || args.yes {
        return Ok(false);
    }
    if on_terminal {
        return Ok(true);
    }
    Err(
        Trouble::new("standard input is no terminal: nobody can be asked whether images may go")
            .next("--yes removes them without a question")
            .next("--dry-run only tells what would go")
            .status(Status::Usage),
    )
}

async fn call(client: &Client, request: PruneImagesRequest) -> anyhow::Result<PruneImagesResponse> {
    let reply = client.admin().prune_images(request).await;
    Ok(reply.map_err(ClientError::of("PruneImages"))?.into_inner())
}

fn confirmed(found: &PruneImagesResponse) -> anyhow::Result<bool> {
    for image in &found.images {
        let row = images::row(image.clone());
        terminal::remark(format!(
            "  {}  {}",
            terminal::clean(row.name()),
            terminal::bytes(row.size)
        ));
    }
    anstream::eprint!(
        "Remove {} and free {}? [y/N] ",
        count(found.images.len()),
        terminal::bytes(found.bytes)
    );
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn count(images: usize) -> String {
    match images {
        1 => "1 image".to_owned(),
        images => format!("{images} images"),
    }
}

fn show(found: &PruneImagesResponse, dry_run: bool, screen: &Screen) -> anyhow::Result<()> {
    let rows: Vec<_> = found.images.iter().cloned().map(images::row).collect();
    match screen.output {
        Output::Json | Output::Yaml => screen.value(&json!({
            "images": rows,
            "bytes": found.bytes,
            "inodes": found.inodes,
            "dry_run": dry_run,
        })),
        Output::Name => {
            for row in &rows {
                screen.line(format!("image/{}", terminal::clean(row.name())))?;
            }
            Ok(())
        }
        Output::Table | Output::Wide => {
            for row in &rows {
                screen.line(terminal::clean(row.name()))?;
            }
            let words = if dry_run { "would be" } else { "are" };
            terminal::remark(format!(
                "{}: {} {words} free",
                count(rows.len()),
                terminal::bytes(found.bytes)
            ));
            Ok(())
        }
    }
}

/// `until=24h` as the moment before which images must have come; 0 for any.
fn before(filters: &[String], now: SystemTime) -> Result<i64, Trouble> {
    let mut moment = 0;
    for filter in filters {
        let time = filter
            .strip_prefix("until=")
            .and_then(|text| humantime::parse_duration(text).ok())
            .ok_or_else(|| {
                Trouble::new(format!("--filter {filter}: only until=TIME is known here"))
                    .next("for instance --filter until=24h, or until=7days")
                    .status(Status::Usage)
            })?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let before = i64::try_from(since.saturating_sub(time).as_nanos())
            .unwrap_or(i64::MAX)
            .max(1);
        // All must fit.
        moment = if moment == 0 { before } else { before.min(moment) };
    }
    Ok(moment)
}

#[cfg(test)]
mod tests {
    use coracle_proto::admin::ImageSummary;

    use super::*;
    use crate::terminal::forms::shown;

    #[test]
    fn until_is_a_time_ago_and_all_of_them_count() {
        let now = UNIX_EPOCH + Duration::from_secs(100_000);
        let of = |filters: &[&str]| {
            let filters: Vec<_> = filters.iter().map(|text| (*text).to_owned()).collect();
            before(&filters, now)
        };
        assert_eq!(of(&[]).unwrap(), 0);
        assert_eq!(of(&["until=10s"]).unwrap(), 99_990_000_000_000);
        assert_eq!(of(&["until=10s", "until=20s"]).unwrap(), 99_980_000_000_000);
        assert_eq!(of(&["until=100days"]).unwrap(), 1, "before all that ever came");
        for wrong in ["until=soon", "until", "label=x"] {
            assert!(of(&[wrong]).unwrap_err().to_string().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn without_a_terminal_it_must_be_said_that_images_may_go() {
        let args = |dry_run: bool, yes: bool| PruneArgs {
            all: false,
            filter: Vec::new(),
            dry_run,
            yes,
        };
        assert_eq!(asks(&args(false, false), true), Ok(true));
        for (dry_run, yes) in [(true, false), (false, true)] {
            assert_eq!(asks(&args(dry_run, yes), false), Ok(false));
        }
        let refused = asks(&args(false, false), false).unwrap_err();
        assert!(refused.is(Status::Usage));
    }

    #[test]
    fn what_went_is_listed_a_line_an_image() {
        let found = PruneImagesResponse {
            images: vec![ImageSummary {
                id: "sha256:1".to_owned(),
                repo_tags: vec!["r.example/a:1".to_owned()],
                repo_digests: Vec::new(),
                size: 7,
                pinned: false,
            }],
            bytes: 4096,
            inodes: 2,
        };
        assert_eq!(
            shown(|screen| show(&found, true, screen).unwrap()),
            "r.example/a:1\n"
        );
    }
}
