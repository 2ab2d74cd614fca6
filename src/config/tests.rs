//! Tests of the configurations and their checks.

use std::io;

use super::check::READ_LEN_MAX;
use super::*;
use crate::codec::Framing;
use crate::memory::Buf;

#[test]
fn public_server_config_is_valid_for_any_memory_limit() {
    for memory_bytes_max in [64 * 1024, 1 << 20, 64 << 20, usize::MAX] {
        let config = Config::for_public_server(memory_bytes_max);
        config.check().expect("the configuration is valid");
        assert_eq!(config.memory_bytes_max, memory_bytes_max);
    }
    let config = Config::for_public_server(64 << 20);
    assert_eq!(config.connections_max, 16_384);
    Config::for_public_server(64 * 1024 - 1)
        .check()
        .expect_err("the memory is less than the low watermark");
}

#[test]
fn default_limits_fit_a_256_kib_frame_and_its_echo() {
    let mut frame = Buf::with_capacity(0);
    Framing::length_u64()
        .encode(&[0; 256 * 1024], &mut frame)
        .expect("the frame is below the limit");
    let config = Config::default();
    let limits = [
        config.read_len_max,
        config.read_budget_bytes,
        config.write_high_bytes,
    ];
    assert!(
        limits.iter().all(|limit| frame.len() <= *limit),
        "a limit is below the frame length: {limits:?}"
    );
}

/// Returns the names in the lines of `block` that begin with `prefix` and contain `name: type`.
fn names_in(block: &str, prefix: &str) -> Vec<String> {
    let lines = block.lines().map(str::trim);
    let names = lines.filter_map(|line| line.strip_prefix(prefix)?.split_once(": "));
    let names = names.map(|(name, _)| name.to_owned());
    names.filter(|name| !name.contains(' ')).collect()
}

/// Compares the source, because a field without a method is no error for the compiler.
#[test]
fn every_config_field_has_a_method_that_sets_it() {
    let source = include_str!("../config.rs");
    let block = |start: &str, end: &str| {
        let (_, rest) = source.split_once(start).expect("the block exists");
        rest.split_once(end).expect("the block has an end").0
    };
    for (name, count_min) in [("Config", 30), ("Limits", 8)] {
        let mut fields = names_in(block(&format!("pub struct {name} {{"), "\n}"), "pub ");
        let setters = format!("field_setters! {{\n        {name}:");
        let mut methods = names_in(block(&setters, "\n    }"), "");
        assert!(fields.len() >= count_min, "{fields:?}");
        fields.sort_unstable();
        methods.sort_unstable();
        assert_eq!(fields, methods, "{name}");
    }
}

type Spoil = fn(&mut Config);

/// Checks that the changed default configuration is rejected with this message.
fn assert_rejected(spoil: Spoil, message: &str) {
    let mut config = Config::default();
    config.check().expect("the default is valid");
    spoil(&mut config);
    let error = config.check().expect_err(message);
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(error.to_string(), message);
}

#[test]
fn config_rejects_zero_of_fields_that_need_a_value() {
    let counts: [(&str, Spoil); 8] = [
        ("read_len_max", |it| it.read_len_max = 0),
        ("frame_budget", |it| it.frame_budget = 0),
        ("posts_max", |it| it.posts_max = 0),
        ("memory_bytes_max", |it| it.memory_bytes_max = 0),
        ("connections_max", |it| it.connections_max = 0),
        ("connections_per_addr_max", |it| {
            it.connections_per_addr_max = 0
        }),
        ("backlog", |it| it.backlog = 0),
        ("write_queue_bytes_max", |it| {
            (it.write_low_bytes, it.write_high_bytes) = (0, 0);
            it.write_queue_bytes_max = 0;
        }),
    ];
    for (field, spoil) in counts {
        assert_rejected(spoil, &format!("{field} is 0, but must be at least 1"));
    }
    const ZERO: Option<Duration> = Some(Duration::ZERO);
    let times: [(&str, Spoil); 5] = [
        ("idle_timeout", |it| it.idle_timeout = ZERO),
        ("read_idle_timeout", |it| it.read_idle_timeout = ZERO),
        ("frame_deadline", |it| it.frame_deadline = ZERO),
        ("write_stall_timeout", |it| it.write_stall_timeout = ZERO),
        ("connect_deadline", |it| {
            it.connect_deadline = Duration::ZERO
        }),
    ];
    for (field, spoil) in times {
        assert_rejected(spoil, &format!("{field} is 0, but must be at least 1 ns"));
    }
}

#[test]
fn config_rejects_values_beyond_their_bound() {
    let beyond: [(&str, Spoil); 5] = [
        (
            "read_len_max is 1073741825, but must be at most 1 GiB (1073741824)",
            |it| it.read_len_max = READ_LEN_MAX + 1,
        ),
        (
            "datagram_len_max is 65536, but must be at most the maximum of UDP (65535)",
            |it| it.datagram_len_max = 65_536,
        ),
        (
            "write_low_bytes is 65536, but must be at most memory_bytes_max (10)",
            |it| it.memory_bytes_max = 10,
        ),
        (
            "write_low_bytes is 300000, but must be at most write_high_bytes (266240)",
            |it| it.write_low_bytes = 300_000,
        ),
        (
            "write_high_bytes is 266240, but must be at most write_queue_bytes_max (100000): \
             a lower maximum needs lower write_low_bytes and write_high_bytes too",
            |it| it.write_queue_bytes_max = 100_000,
        ),
    ];
    for (message, spoil) in beyond {
        assert_rejected(spoil, message);
    }
}
