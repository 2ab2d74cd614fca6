//! Tests of the public simulation (`unstick::testkit::sim`).

mod api;
mod network;
mod scripts;
