//! The folder of the receiver: partial files, their check, and complete files.
//!
//! All functions block. The receiver calls them in a separate thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ring::digest::{Context as Hash, SHA256};

use super::message::Offer;

/// Next step for an offered file.
pub(crate) enum Opened {
    /// The folder has the file already, with the same content.
    Stored,
    /// The partial file and its length. Its missing bytes are to be appended.
    Partial(File, u64),
}

#[derive(Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Uses an existing folder.
    pub(crate) fn new(path: &str) -> io::Result<Self> {
        match fs::metadata(path)?.is_dir() {
            true => Ok(Self(PathBuf::from(path))),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn complete(&self, offer: &Offer) -> PathBuf {
        self.0.join(&offer.name)
    }

    /// Returns the path of a partial file. The path contains the digest, so the bytes of two files
    /// with one name are never mixed.
    fn partial(&self, offer: &Offer) -> PathBuf {
        let digest: String = offer.digest.iter().map(|it| format!("{it:02x}")).collect();
        self.0.join(format!(".{}.{digest}.part", offer.name))
    }

    /// Opens the partial file of an offer, or creates it.
    pub(crate) fn open(&self, offer: &Offer) -> Result<Opened, String> {
        let complete = self.complete(offer);
        if complete.exists() {
            return match digest(&complete).map_err(|error| error.to_string())? {
                (_, digest) if digest == offer.digest => Ok(Opened::Stored),
                _ => Err("another file of this name exists".to_owned()),
            };
        }
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(self.partial(offer));
        let opened = file.and_then(|file| {
            let mut len = file.metadata()?.len();
            if len > offer.len {
                file.set_len(0)?;
                len = 0;
            }
            Ok(Opened::Partial(file, len))
        });
        opened.map_err(|error| error.to_string())
    }

    /// Checks the digest of a partial file that has its whole length. A correct file gets its name;
    /// a wrong one is removed.
    pub(crate) fn finish(&self, offer: &Offer) -> Result<(), String> {
        let (partial, complete) = (self.partial(offer), self.complete(offer));
        if complete.exists() {
            return Err("another file of this name exists".to_owned());
        }
        let finish = || -> io::Result<bool> {
            let is_correct = digest(&partial)? == (offer.len, offer.digest);
            match is_correct {
                true => {
                    // Write to the disk first, so that a complete file survives a power failure.
                    File::open(&partial)?.sync_all()?;
                    fs::rename(&partial, &complete)?;
                }
                false => fs::remove_file(&partial)?,
            }
            Ok(is_correct)
        };
        match finish() {
            Ok(true) => Ok(()),
            Ok(false) => Err("the digest of the received bytes differs".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Returns the length of a file, and its SHA-256.
pub(crate) fn digest(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let (mut file, mut hash, mut len) = (File::open(path)?, Hash::new(&SHA256), 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hash.update(&buffer[..count]);
                len += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    Ok((len, digest))
}
