//! Tests of the state table in the documentation of [`state`](crate::conn::state).

use crate::conn::state::*;
use crate::event::Hangup;

/// Returns a state for each column of the table.
fn columns() -> [(&'static str, State); 7] {
    let open = State::accepted(false, false);
    let mut preparing = open;
    assert!(preparing.prepare());
    let mut fin_sent = open;
    assert_eq!(fin_sent.half_close(), Action::Flush);
    fin_sent.fin_sent();
    let mut closing = open;
    assert_eq!(closing.close(), Action::Flush);
    let mut lingering = closing;
    lingering.fin_sent();
    let mut dead = open;
    assert_eq!(dead.end(), Action::Reap);
    [
        ("connecting", State::connecting(false)),
        ("preparing", preparing),
        ("open", open),
        ("open, FIN sent", fin_sent),
        ("closing", closing),
        ("lingering", lingering),
        ("dead", dead),
    ]
}

type Event = (&'static str, fn(&mut State) -> Action);

/// Action and next phase for each event (rows) in each state of [`columns`].
const TABLE: [(Event, [(Action, Phase); 7]); 10] = {
    use Action::{Deliver, FailPreparation, Flush, NextAddress, None, Reap, Reset, SendFin};
    use Phase::{Closing, Connecting, Dead, Lingering, Open, Preparing};
    [
        (
            ("close", |state| state.close()),
            [
                (Reap, Dead),
                (Reap, Dead),
                (Flush, Closing),
                (Flush, Lingering),
                (None, Closing),
                (None, Lingering),
                (None, Dead),
            ],
        ),
        (
            ("reject", State::reject),
            [
                (Reap, Dead),
                (Flush, Closing),
                (Flush, Closing),
                (Flush, Lingering),
                (None, Closing),
                (None, Lingering),
                (None, Dead),
            ],
        ),
        (
            ("half_close", |state| state.half_close()),
            [
                (Flush, Connecting),
                (Flush, Preparing),
                (Flush, Open),
                (None, Open),
                (None, Closing),
                (None, Lingering),
                (None, Dead),
            ],
        ),
        (
            ("output_taken", |state| state.output_taken()),
            [
                (None, Connecting),
                (None, Preparing),
                (None, Open),
                (None, Open),
                (SendFin, Closing),
                (None, Lingering),
                (None, Dead),
            ],
        ),
        (
            ("output_taken after the peer's end", |state| {
                state.read_ended();
                state.output_taken()
            }),
            [
                (None, Connecting),
                (None, Preparing),
                (None, Open),
                (None, Open),
                (SendFin, Closing),
                (Reap, Lingering),
                (None, Dead),
            ],
        ),
        (
            ("output_taken after the peer's end was delivered", |state| {
                state.read_ended();
                state.end_delivered();
                state.output_taken()
            }),
            [
                (None, Connecting),
                (None, Preparing),
                (None, Open),
                (Reap, Open),
                (SendFin, Closing),
                (Reap, Lingering),
                (None, Dead),
            ],
        ),
        (
            ("write_failed", |state| state.write_failed().0),
            [
                (Deliver, Connecting),
                (Reap, Dead),
                (Deliver, Open),
                (Deliver, Open),
                (Reap, Dead),
                (Reap, Dead),
                (None, Dead),
            ],
        ),
        (
            ("write_failed after the peer's end", |state| {
                state.read_ended();
                state.write_failed().0
            }),
            [
                (Reap, Dead),
                (Reap, Dead),
                (Reap, Dead),
                (Reap, Dead),
                (Reap, Dead),
                (Reap, Dead),
                (None, Dead),
            ],
        ),
        (
            ("deadline_passed", |state| state.deadline_passed()),
            [
                (NextAddress, Connecting),
                (FailPreparation, Preparing),
                (Reset, Open),
                (Reset, Open),
                (Reset, Closing),
                (Reset, Lingering),
                (None, Dead),
            ],
        ),
        (
            ("end", State::end),
            [
                (Reap, Dead),
                (Reap, Dead),
                (Reap, Dead),
                (Reap, Dead),
                (Reap, Dead),
                (Reap, Dead),
                (None, Dead),
            ],
        ),
    ]
};

#[test]
fn every_event_in_every_phase_returns_the_tables_action() {
    for ((event, apply), row) in TABLE {
        for ((column, state), expected) in columns().into_iter().zip(row) {
            let mut state = state;
            let action = apply(&mut state);
            assert_eq!((action, state.phase()), expected, "{event} while {column}");
        }
    }
}

#[test]
fn closed_or_failed_write_half_accepts_no_output() {
    for (column, mut state) in columns() {
        let accepts = ["connecting", "preparing", "open"].contains(&column);
        assert_eq!(!state.stops_sending(), accepts, "{column}");
        let _ = state.write_failed();
        assert!(state.stops_sending(), "{column} after a failed write");
    }
}

#[test]
fn preparing_connection_neither_reads_frames_nor_writes() {
    let mut state = State::accepted(false, false);
    assert!(state.add_readiness(Readiness::READABLE));
    assert!(state.is_plain_to_read(false) && state.may_write());
    state.prepare();
    assert!(!state.is_plain_to_read(false) && !state.may_write());
    assert!(!state.wants_frames() && !state.may_read() && !state.needs_no_check_per_frame());
    state.prepared();
    assert!(state.is_plain_to_read(false) && state.may_write());
}

#[test]
fn releasing_one_hold_keeps_the_others() {
    type Change = fn(&mut State) -> bool;
    let holds: [(Change, Change); 4] = [
        (State::pause, State::resume),
        (State::above_high, |state| {
            state.at_low() == Watermark::Drained
        }),
        (State::credit_used_up, |state| {
            state.credit_granted(true, true)
        }),
        (State::reframed, State::reframe_handled),
    ];
    for (index, (hold, release)) in holds.iter().enumerate() {
        for (other, (_, other_release)) in holds.iter().enumerate() {
            let mut state = State::accepted(false, false);
            hold(&mut state);
            assert!(!state.wants_frames() && !state.may_read());
            other_release(&mut state);
            assert_eq!(
                state.wants_frames(),
                index == other,
                "hold {index} after the release of {other}"
            );
            release(&mut state);
            assert!(state.wants_frames());
        }
    }
}

#[test]
fn state_that_reads_above_high_is_still_checked_per_frame() {
    let mut state = State::accepted(false, false);
    state.set_reads_above_high(true);
    assert!(state.needs_no_check_per_frame());
    state.above_high();
    assert!(state.wants_frames() && state.may_read() && state.is_above_high());
    assert!(!state.needs_no_check_per_frame() && !state.is_dispatch_over());
    assert_eq!(state.at_low(), Watermark::Drained);
    assert!(state.needs_no_check_per_frame());
}

#[test]
fn peek_stops_frames_and_not_reads() {
    let mut state = State::accepted(false, false);
    state.peek();
    assert!(!state.wants_frames() && state.may_read() && state.wants_input());
    assert!(!state.needs_no_check_per_frame() && !state.is_dispatch_over());
    state.pause();
    assert!(!state.may_read() && !state.wants_input());
    state.resume();
    state.peek_handled();
    assert!(state.wants_frames() && state.needs_no_check_per_frame());
}

#[test]
fn short_read_clears_readiness_unless_an_end_was_reported() {
    for (readiness, stays) in [
        (Readiness::READABLE, false),
        (Readiness::END, true),
        (Readiness::HANGUP, true),
    ] {
        let mut state = State::accepted(false, false);
        assert!(state.add_readiness(readiness));
        assert!(
            !state.add_readiness(readiness),
            "a queued entry is not queued again"
        );
        state.short_read();
        assert_eq!(state.is_readable(), stays);
        state.read_would_block();
        assert!(!state.is_readable());
    }
}

#[test]
fn each_watermark_crossing_is_reported_once() {
    let mut state = State::accepted(false, false);
    assert_eq!(state.at_low(), Watermark::Unchanged);
    state.above_high();
    state.above_high();
    assert_eq!(state.at_low(), Watermark::Drained);
    assert_eq!(state.at_low(), Watermark::Unchanged);
    state.above_high();
    assert_eq!(state.write_failed().1, Watermark::Drained);
}

#[test]
fn resume_from_memory_restores_readiness_and_watermark() {
    let mut state = State::accepted(false, false);
    assert!(state.add_readiness(Readiness::READABLE));
    assert!(state.pause_for_memory());
    assert!(!state.await_memory(), "a queued entry is not queued again");
    assert!(!state.is_readable() && !state.may_read());
    let resume = state.resume_from_memory();
    assert!(resume.read && state.is_readable());
    assert_eq!(resume.watermark, Watermark::Drained);

    let mut connecting = State::connecting(false);
    assert!(connecting.await_memory());
    let resume = connecting.resume_from_memory();
    assert_eq!(resume.watermark, Watermark::Unchanged);
    assert!(
        connecting.is_above_high(),
        "on_drained waits until the connection is open"
    );
}

#[test]
fn hangup_is_reported_once_and_reset_every_time() {
    let mut state = State::accepted(false, false);
    state.pause();
    assert!(state.add_readiness(Readiness::HANGUP));
    assert!(state.is_hung_up_unread());
    assert_eq!(state.report_hangup(), Some(Hangup::Ended));
    assert!(!state.is_hung_up_unread());
    state.add_readiness(Readiness::HANGUP);
    assert_eq!(state.report_hangup(), None);
    let _ = state.write_failed();
    assert_eq!(state.report_hangup(), Some(Hangup::Reset));
}
