//! Steps of a longer task: announced before, timed after.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What was done so far, and how long each step took.
pub(crate) struct Steps {
    begin: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self {
            begin: Instant::now(),
            done: Vec::new(),
        }
    }

    /// Does one step; its failure ends the task, after the times so far were told.
    pub(crate) fn step<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n== {name}");
        let begin = Instant::now();
        let outcome = work();
        self.done.push((name, begin.elapsed()));
        if outcome.is_err() {
            self.tell();
        }
        outcome.context(name)
    }

    /// Prints the times.
    pub(crate) fn tell(&self) {
        println!("\n== times");
        for (name, time) in &self.done {
            println!("{:>8.1} s  {name}", time.as_secs_f64());
        }
        println!("{:>8.1} s  in all", self.begin.elapsed().as_secs_f64());
    }
}
