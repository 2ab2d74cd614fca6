//! Tests of the public simulation (`unstick::testkit::sim`).

mod api;
mod fuzz;
mod lives;
mod network;
mod parts;
mod scripts;

#[path = "../fuzz/entries/lib.rs"]
mod entries;
