//! The live view: drawn anew at each look, moved by keys, and the terminal as it was when it ends.

use std::io::{self, Read};
use std::time::Duration;

use coracle_proto::client::Client;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::View;
use super::node::Machine;
use super::sample::{Sampler, Usage};
use super::table;
use crate::cli::SortKey;
use crate::terminal::{Screen, Tone, clean};

/// Alternate screen, no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Terminals that know it show a frame as a whole.
const BEGIN_FRAME: &str = "\x1b[?2026h\x1b[H";
const END_FRAME: &str = "\x1b[J\x1b[?2026l";
/// Lines around the rows: two of the node, a blank, the heading, the keys.
const FRAME: usize = 5;
const KEYS: [(char, SortKey, &str); 7] = [
    ('c', SortKey::Cpu, "cpu"),
    ('m', SortKey::Memory, "memory"),
    ('d', SortKey::Disk, "disk"),
    ('n', SortKey::Net, "net"),
    ('p', SortKey::Pressure, "pressure"),
    ('a', SortKey::Age, "age"),
    ('N', SortKey::Name, "name"),
];

/// Runs until `q`, an interrupt or a hang-up.
pub(super) async fn run(client: &Client, screen: &Screen, view: View, every: Duration) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (mut hangup, mut resized) = (
        signal(SignalKind::hangup())?,
        signal(SignalKind::window_change())?,
    );
    let _terminal = Terminal::take(screen)?;
    let mut keys = keys();
    let mut state = State::new(view);
    state.look(client).await;
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Two looks make a rate: the second comes soon.
    tick.reset_after(super::MOMENT);
    loop {
        state.draw(&screen.measured())?;
        tokio::select! {
            _ = tick.tick() => state.look(client).await,
            key = keys.recv() => if !state.press(key.as_deref().unwrap_or(b"q")) { return Ok(()) },
            _ = resized.recv() => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}

/// What is on the screen.
struct State {
    view: View,
    sampler: Sampler,
    pods: Vec<Usage>,
    machine: Machine,
    trouble: Option<String>,
    first: usize,
}

impl State {
    fn new(view: View) -> Self {
        Self {
            view,
            sampler: Sampler::default(),
            pods: Vec::new(),
            machine: Machine::look(),
            trouble: None,
            first: 0,
        }
    }

    /// Measures again. A daemon that is away for a moment is waited for.
    async fn look(&mut self, client: &Client) {
        self.machine = Machine::look();
        match self.sampler.take(client).await {
            Ok(pods) => (self.pods, self.trouble) = (pods, None),
            Err(error) => self.trouble = Some(clean(&format!("{error:#}"))),
        }
    }

    /// Does what a key says; false when it says to leave.
    fn press(&mut self, key: &[u8]) -> bool {
        match key {
            b"q" | b"Q" | b"\x04" | b"\x1b" => return false,
            b"g" => self.view.pods_only = !self.view.pods_only,
            b"j" | b"\x1b[B" => self.first = self.first.saturating_add(1),
            b"k" | b"\x1b[A" => self.first = self.first.saturating_sub(1),
            b" " | b"\x1b[6~" => self.first = self.first.saturating_add(10),
            b"b" | b"\x1b[5~" => self.first = self.first.saturating_sub(10),
            [one] => {
                let chosen = KEYS.iter().find(|(key, _, _)| *key == char::from(*one));
                self.view.sort = chosen.map_or(self.view.sort, |(_, sort, _)| *sort);
            }
            _ => {}
        }
        true
    }

    fn draw(&mut self, screen: &Screen) -> io::Result<()> {
        let height = tcgetwinsize(io::stdout()).map_or(24, |size| usize::from(size.ws_row).max(FRAME + 1));
        let mut frame = String::from(BEGIN_FRAME);
        let lines = self.lines(screen, height);
        for (place, line) in lines.iter().enumerate() {
            frame.push_str(line);
            frame.push_str(if place + 1 < lines.len() {
                "\x1b[K\r\n"
            } else {
                "\x1b[K"
            });
        }
        frame.push_str(END_FRAME);
        screen.raw(&frame)
    }

    /// The whole frame, no line wider and no more of them than there is room.
    fn lines(&mut self, screen: &Screen, height: usize) -> Vec<String> {
        let shown = self.view.of(self.pods.clone());
        let listing = table::listing(&shown, screen, Some(self.machine.cores));
        let text = screen.table_text(&listing);
        let mut rows = text.lines();
        let heading = rows.next().unwrap_or_default().to_owned();
        let rows: Vec<_> = rows.collect();
        let room = height.saturating_sub(FRAME);
        self.first = self.first.min(rows.len().saturating_sub(room));
        let last = (self.first + room).min(rows.len());
        let containers: usize = self.pods.iter().map(|pod| pod.containers.len()).sum();
        let mut head = vec![format!(
            "{}, {}",
            count(self.pods.len(), "pod"),
            count(containers, "container")
        )];
        if rows.len() > room {
            head.push(format!("lines {} to {last} of {}", self.first + 1, rows.len()));
        }
        let mut lines = vec![screen.fitting("", &head, Tone::Heading)];
        lines.push(match &self.trouble {
            Some(words) => screen.fitting("no answer: ", &[format!("{words}; trying again")], Tone::Bad),
            None => screen.fitting("node: ", &self.machine.words(), Tone::Faint),
        });
        lines.push(String::new());
        lines.push(heading);
        lines.extend(rows[self.first..last].iter().map(|row| (*row).to_owned()));
        lines.resize(height.saturating_sub(1), String::new());
        lines.push(screen.fitting("", &self.keys(), Tone::Faint));
        lines
    }

    fn keys(&self) -> Vec<String> {
        let mut words = vec!["q quit".to_owned()];
        words.extend(KEYS.iter().map(|(key, sort, name)| {
            let mark = if *sort == self.view.sort { "*" } else { "" };
            format!("{key} {name}{mark}")
        }));
        words.push(
            if self.view.pods_only {
                "g containers"
            } else {
                "g pods only"
            }
            .to_owned(),
        );
        words.push("j k move".to_owned());
        words
    }
}

fn count(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The terminal in the state of a live view; given back as it was.
struct Terminal<'a> {
    screen: &'a Screen,
    before: Option<Termios>,
}

impl<'a> Terminal<'a> {
    fn take(screen: &'a Screen) -> io::Result<Self> {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            // Keys come at once and are not shown; Ctrl-C stays a signal.
            let mut quiet = before.clone();
            quiet.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            tcsetattr(io::stdin(), OptionalActions::Now, &quiet)?;
        }
        screen.raw(ENTER)?;
        Ok(Self { screen, before })
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        // A terminal that is gone wants nothing back.
        let _ = self.screen.raw(LEAVE);
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Keys as they are pressed. The thread that reads ends with the program: a read cannot be called back.
fn keys() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut bytes = [0; 16];
        loop {
            match io::stdin().lock().read(&mut bytes) {
                Ok(0) | Err(_) => {
                    // Without a keyboard the view goes on until a signal.
                    std::mem::forget(sender);
                    return;
                }
                Ok(length) => {
                    if sender.blocking_send(bytes[..length].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;
    use crate::terminal::Clock;

    fn state(pods: usize) -> State {
        let mut state = State::new(View {
            sort: SortKey::Cpu,
            pods_only: false,
            only: Vec::new(),
        });
        state.machine = Machine::default();
        let pod = |place: usize| Usage {
            id: format!("{place:064}"),
            name: format!("pod-{place}"),
            namespace: "default".to_owned(),
            ..Usage::default()
        };
        state.pods = (0..pods).map(pod).collect();
        state
    }

    #[test]
    fn a_frame_is_never_taller_or_wider_than_the_terminal() {
        let mut screen = Screen::to(Box::new(io::sink()), Output::Table, None, Clock::Still(1));
        for (width, height) in [(20, 6), (40, 10), (80, 24), (200, 60)] {
            for pods in [0, 1, 9, 100] {
                screen.width = Some(width);
                let lines = state(pods).lines(&screen, height);
                assert_eq!(lines.len(), height, "{width}x{height}, {pods} pods");
                let widest = lines.iter().map(|line| line.chars().count()).max();
                assert!(widest <= Some(width), "{width}x{height}, {pods} pods: {lines:#?}");
            }
        }
    }

    #[test]
    fn keys_sort_move_and_leave() {
        let mut state = state(100);
        assert!(state.press(b"m") && state.press(b"j") && state.press(b"x"));
        assert_eq!((state.view.sort, state.first), (SortKey::Memory, 1));
        assert!(state.press(b"\x1b[A"));
        assert_eq!(state.first, 0);
        assert!(!state.press(b"q"));
    }
}
