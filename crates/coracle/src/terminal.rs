//! What people and programs see: tables that fit, JSON, YAML, names; colour only where a terminal shows
//! it, and never as the only bearer of what is said.

mod clock;
#[cfg(test)]
pub(crate) mod forms;
mod layout;
mod listing;
mod screen;
mod tone;
mod trouble;
mod units;
mod yaml;

use std::fmt::Display;

#[cfg(test)]
pub(crate) use clock::Clock;
pub(crate) use clock::instant;
pub(crate) use listing::{Cell, Column, Cut, Listing, Row};
pub(crate) use screen::{Screen, Table};
pub(crate) use tone::{Tone, clean};
#[cfg(test)]
pub(crate) use trouble::lines;
pub(crate) use trouble::{Status, Trouble, complain, status_of};
pub(crate) use units::{bytes, cores, rate, share, took};

/// A remark beside the result, on standard error. Much of it is other people's words: nothing in it moves a terminal.
pub(crate) fn remark(words: impl Display) {
    let style = Tone::Faint.style();
    for line in words.to_string().lines() {
        anstream::eprintln!("{style}{}{style:#}", clean(line));
    }
}
