//! Properties of the policy: over any sequence of requests and endings, nothing overlaps and all is answered.

use proptest::prelude::*;

use super::*;

/// A pod with one container, driven as the actor drives it.
#[derive(Debug)]
struct Model {
    pod: Option<PodPhase>,
    container: Option<ContainerPhase>,
    parked: Vec<Event>,
    answered: usize,
    asked: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Pod(PodRequest),
    Container(ContainerRequest),
    /// The operation under way on the pod ends well.
    PodEnds,
    /// The operation under way on the container ends well.
    ContainerEnds,
    /// The container's process ends by itself.
    Exit,
}

impl Model {
    fn new() -> Self {
        Self {
            pod: Some(PodPhase::Starting),
            container: None,
            parked: Vec::new(),
            answered: 0,
            asked: 0,
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Pod(_) | Event::Container(_) => {
                self.asked += 1;
                self.decide(event);
            }
            Event::PodEnds => self.pod_ends(),
            Event::ContainerEnds => self.container_ends(),
            Event::Exit => {
                if let Some(phase @ (ContainerPhase::Running | ContainerPhase::Stopping)) = self.container {
                    let _ = phase;
                    self.container = Some(ContainerPhase::Exited);
                }
            }
        }
        if !matches!(event, Event::Pod(_) | Event::Container(_)) {
            for parked in std::mem::take(&mut self.parked) {
                self.decide(parked);
            }
        }
    }

    fn pod_ends(&mut self) {
        self.pod = match self.pod {
            Some(PodPhase::Starting) => Some(PodPhase::Ready),
            Some(PodPhase::Stopping) => {
                assert!(
                    !self.container.is_some_and(is_being_made_or_removed),
                    "stopped under a change: {self:?}"
                );
                if let Some(phase @ (ContainerPhase::Running | ContainerPhase::Stopping)) =
                    &mut self.container
                {
                    *phase = ContainerPhase::Exited;
                }
                Some(PodPhase::Stopped)
            }
            Some(PodPhase::Removing) => {
                self.container = None;
                None
            }
            other => other,
        };
    }

    fn container_ends(&mut self) {
        self.container = match self.container {
            Some(ContainerPhase::Creating) => Some(ContainerPhase::Created),
            Some(ContainerPhase::Starting) => Some(ContainerPhase::Running),
            Some(ContainerPhase::Stopping) => Some(ContainerPhase::Exited),
            Some(ContainerPhase::Removing) => None,
            other => other,
        };
    }

    fn decide(&mut self, event: Event) {
        let Some(pod_phase) = self.pod else {
            self.answered += 1;
            return;
        };
        let verdict = match event {
            Event::Pod(PodRequest::Create) if self.container.is_some() => {
                return self.decide(Event::Container(ContainerRequest::CreateAgain(Repeat::Same)));
            }
            Event::Pod(request) => pod(request, pod_phase, Leftovers::None, self.container.into_iter()),
            Event::Container(request) => match self.container {
                None => {
                    self.answered += 1;
                    return;
                }
                Some(phase) => container(request, pod_phase, phase),
            },
            _ => unreachable!("only requests are decided"),
        };
        match verdict {
            Verdict::Wait => {
                if matches!(event, Event::Pod(PodRequest::Stop | PodRequest::Remove))
                    && pod_phase == PodPhase::Ready
                {
                    self.pod = Some(PodPhase::Draining);
                }
                self.parked.push(event);
            }
            Verdict::Begin => {
                self.answered += 1;
                self.begin(event, pod_phase);
            }
            Verdict::Join | Verdict::Done | Verdict::Refuse(_) => self.answered += 1,
        }
    }

    fn begin(&mut self, event: Event, pod_phase: PodPhase) {
        match event {
            Event::Pod(PodRequest::Stop) => {
                assert!(matches!(
                    pod_phase,
                    PodPhase::Ready | PodPhase::Draining | PodPhase::Stopped
                ));
                self.pod = Some(PodPhase::Stopping);
            }
            Event::Pod(PodRequest::Remove) => {
                assert!(!matches!(
                    pod_phase,
                    PodPhase::Starting | PodPhase::Stopping | PodPhase::Removing
                ));
                self.pod = Some(PodPhase::Removing);
            }
            Event::Pod(PodRequest::Create) => {
                assert_eq!(pod_phase, PodPhase::Ready);
                self.container = Some(ContainerPhase::Creating);
            }
            Event::Container(ContainerRequest::Start) => {
                assert_eq!(
                    (pod_phase, self.container),
                    (PodPhase::Ready, Some(ContainerPhase::Created))
                );
                self.container = Some(ContainerPhase::Starting);
            }
            Event::Container(ContainerRequest::Stop) => {
                assert_eq!(self.container, Some(ContainerPhase::Running));
                self.container = Some(ContainerPhase::Stopping);
            }
            Event::Container(ContainerRequest::Remove) => {
                assert!(!self.container.is_some_and(is_being_made_or_removed));
                self.container = Some(ContainerPhase::Removing);
            }
            other => panic!("{other:?} never begins an operation"),
        }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Pod(PodRequest::RunAgain(Repeat::Same))),
        1 => Just(Event::Pod(PodRequest::Stop)),
        1 => Just(Event::Pod(PodRequest::Remove)),
        3 => Just(Event::Pod(PodRequest::Create)),
        3 => Just(Event::Container(ContainerRequest::Start)),
        1 => Just(Event::Container(ContainerRequest::Stop)),
        1 => Just(Event::Container(ContainerRequest::Remove)),
        1 => Just(Event::Container(ContainerRequest::Use)),
        3 => Just(Event::PodEnds),
        3 => Just(Event::ContainerEnds),
        1 => Just(Event::Exit),
    ]
}

proptest! {
    /// The assertions in `begin` hold on every path, and when all operations have ended every
    /// request has its answer.
    #[test]
    fn operations_never_overlap_and_every_request_is_answered(events in prop::collection::vec(any_event(), 0..60)) {
        let mut model = Model::new();
        for event in events {
            model.step(event);
        }
        for _ in 0..200 {
            if model.parked.is_empty() {
                break;
            }
            model.step(Event::ContainerEnds);
            model.step(Event::PodEnds);
        }
        prop_assert!(model.parked.is_empty(), "never answered: {model:?}");
        prop_assert_eq!(model.answered, model.asked);
    }
}

#[test]
fn a_retry_joins_and_a_different_request_is_refused() {
    let same = PodRequest::RunAgain(Repeat::Same);
    let other = PodRequest::RunAgain(Repeat::Differs);
    let none = std::iter::empty;
    assert_eq!(
        pod(same, PodPhase::Starting, Leftovers::None, none()),
        Verdict::Join
    );
    assert_eq!(pod(same, PodPhase::Ready, Leftovers::None, none()), Verdict::Done);
    assert_eq!(
        pod(other, PodPhase::Ready, Leftovers::None, none()),
        Verdict::Refuse(Refusal::NameTaken)
    );
}

#[test]
fn a_stop_that_left_something_is_done_again() {
    let stop = |leftovers| pod(PodRequest::Stop, PodPhase::Stopped, leftovers, std::iter::empty());
    assert_eq!(stop(Leftovers::None), Verdict::Done);
    assert_eq!(stop(Leftovers::Some), Verdict::Begin);
}
