//! Keeper, shim and client together, on real containers; every test wants root.

mod adoption;
mod capture;
mod life;
mod rig;
mod wire;
