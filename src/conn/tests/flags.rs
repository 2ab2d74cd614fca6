//! The phases of a connection.

use crate::conn::{ClosingStep, State};

#[test]
fn closing_flushes_then_sends_fin_then_waits_for_the_peer() {
    let mut flags = State::default();
    assert_eq!(flags.next_closing_step(true), ClosingStep::Wait);
    flags.insert(State::CLOSING);
    assert_eq!(flags.next_closing_step(false), ClosingStep::Wait);
    assert_eq!(flags.next_closing_step(true), ClosingStep::SendFin);
    flags.insert(State::FIN_SENT);
    assert_eq!(flags.next_closing_step(true), ClosingStep::Wait);
    flags.insert(State::PEER_ENDED);
    assert_eq!(flags.next_closing_step(true), ClosingStep::Finish);
    flags.insert(State::DEAD);
    assert_eq!(flags.next_closing_step(true), ClosingStep::Wait);
}

#[test]
fn neither_pause_undoes_the_other() {
    let mut flags = State::PAUSED | State::ABOVE_HIGH;
    flags.remove(State::ABOVE_HIGH);
    assert!(!flags.wants_frames());
    flags.insert(State::ABOVE_HIGH);
    flags.remove(State::PAUSED);
    assert!(!flags.wants_frames());
    flags.remove(State::ABOVE_HIGH);
    assert!(flags.wants_frames());
}
