//! What the lists take: which objects, how much of them, once or on and on.

use clap::Args;

/// What to list.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ListArgs {
    /// Also what has ended
    #[arg(long, short)]
    pub(crate) all: bool,
    /// How it is picked and shown.
    #[command(flatten)]
    pub(crate) pick: PickArgs,
}

/// Options of every list.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PickArgs {
    /// Only what fits: state=, name=, pod=, namespace=, image=, id=, label=KEY or label=KEY=VALUE; `*`
    /// stands for anything, `!=` for the opposite. Given several times, one of the same key must fit
    #[arg(long, short, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Go on, a line for each change
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// Whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
}
