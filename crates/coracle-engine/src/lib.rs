//! Pods as actors: what a CRI call means, in which state, and what is left to do after a crash.
