//! Where in its life a connection stands.

use crate::conn::{ClosingStep, Flags};

#[test]
fn closing_flushes_then_sends_its_end_then_waits_for_the_peer() {
    let mut flags = Flags::default();
    assert_eq!(flags.next_closing_step(true), ClosingStep::Wait);
    flags.insert(Flags::CLOSING);
    assert_eq!(flags.next_closing_step(false), ClosingStep::Wait);
    assert_eq!(flags.next_closing_step(true), ClosingStep::SendFin);
    flags.insert(Flags::FIN_SENT);
    assert_eq!(flags.next_closing_step(true), ClosingStep::Wait);
    flags.insert(Flags::PEER_ENDED);
    assert_eq!(flags.next_closing_step(true), ClosingStep::Finish);
    flags.insert(Flags::DEAD);
    assert_eq!(flags.next_closing_step(true), ClosingStep::Wait);
}

#[test]
fn neither_pause_undoes_the_other() {
    let mut flags = Flags::PAUSED | Flags::ABOVE_HIGH;
    flags.remove(Flags::ABOVE_HIGH);
    assert!(!flags.wants_frames());
    flags.insert(Flags::ABOVE_HIGH);
    flags.remove(Flags::PAUSED);
    assert!(!flags.wants_frames());
    flags.remove(Flags::ABOVE_HIGH);
    assert!(flags.wants_frames());
}
