//! Sends files over TCP: header and body, a digest, and resuming after a cut.
//!
//! ```text
//! cargo run --release --example transfer -- --receive /tmp/files --listen 127.0.0.1:7006
//! cargo run --release --example transfer -- 127.0.0.1:7006 Cargo.toml README.md
//! ```
//!
//! Each message has a header of five bytes, the kind and the length of the body:
//!
//! | kind | direction | body |
//! |---|---|---|
//! | `O` | to the receiver | offer: length of the file (8 bytes), its SHA-256, its name |
//! | `R` | to the sender | number of bytes that the receiver has (8 bytes) |
//! | `D` | to the receiver | the next bytes of the file, at most 64 KiB |
//! | `S` | to the sender | the file is stored, and its digest is correct |
//! | `E` | to the sender | the file is refused; the reason as text |
//!
//! If the connection breaks, the sender connects again and offers the file again. The receiver then
//! names the number of bytes that it has.

#[path = "../support/cli.rs"]
mod cli;
mod folder;
mod message;
mod receiver;
mod sender;

use std::process::ExitCode;

const HELP: &str = "\
Sends files to a folder of another machine, and resumes after a cut.

Usage: transfer --receive FOLDER [--listen ADDR] [--len-max BYTES]
       transfer ADDR FILE...

  ADDR             address of the receiver (HOST:PORT)
  --receive FOLDER store the files of senders in this folder
  --listen ADDR    address to listen on (HOST:PORT or unix:PATH, default
                   127.0.0.1:7006)
  --len-max BYTES  longest file that is accepted (default 1099511627776)
  -h, --help       print this help

A file gets its name when it is complete and its SHA-256 is correct. Until then, it
is a partial file whose name begins with a dot. An existing file is never replaced.
Anyone who can connect can store files: use it in a trusted network.";

fn main() -> ExitCode {
    use lexopt::prelude::*;

    cli::run("transfer", HELP, |mut args| {
        let (mut folder, mut listen, mut len_max) = (None, None, None);
        let mut operands = Vec::new();
        while let Some(arg) = args.next()? {
            match arg {
                Long("receive") => folder = Some(cli::text(args.value()?)?),
                Long("listen") => listen = Some(cli::text(args.value()?)?),
                Long("len-max") => len_max = Some(cli::value(&mut args, "--len-max")?),
                Value(value) => operands.push(cli::text(value)?),
                arg => return Err(cli::unexpected(arg)),
            }
        }
        match (folder, operands.split_first()) {
            (Some(folder), None) => {
                let listen = listen.as_deref().unwrap_or("127.0.0.1:7006");
                receiver::run(listen, &folder, len_max.unwrap_or(1 << 40))
            }
            (None, Some((addr, files)))
                if !files.is_empty() && listen.is_none() && len_max.is_none() =>
            {
                sender::run(addr, files)
            }
            _ => Err(cli::Failure::Usage(
                "either --receive FOLDER, or ADDR and files".to_owned(),
            )),
        }
    })
}
