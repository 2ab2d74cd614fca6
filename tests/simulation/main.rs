//! Tests of the public simulation (`unstick::testkit::sim`).

mod api;
mod lives;
mod network;
mod parts;
mod scripts;
mod tls_fuzz;

#[path = "../fuzz/entries/lib.rs"]
mod entries;
