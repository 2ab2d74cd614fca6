//! Test of a decoder of the crate `tokio-util` with many cuts of a stream.

use std::fmt::Debug;

use tokio_util::codec::Decoder;

use super::cuts::pieces;
use super::random::Random;
use crate::framed::TokioCodec;

/// Maximum length of a stream that is cut at every pair of offsets.
const TWO_CUTS_LEN_MAX: usize = 96;
/// Number of random cuts of a stream.
const RANDOM_COUNT: usize = 100;

/// Checks that a [`Decoder`] makes the same items of a stream, however it is cut. Returns the items
/// of the uncut stream. Requires the feature `tokio-util`.
///
/// The stream is cut at each single offset, into single bytes, and in a hundred random ways. A
/// stream of up to 96 bytes is also cut at every pair of offsets. Each cut gets a new decoder from
/// `new`. Items and errors are compared by their `Debug` text. The stream ends after the last
/// piece.
///
/// # Panics
///
/// Panics if a cut leads to other items. The message contains the pieces and both lists.
///
/// # Examples
///
/// ```
/// use tokio_util::codec::LinesCodec;
/// use unstick::testkit::check_decoder;
///
/// let lines = check_decoder(LinesCodec::new, b"a\r\n\nbc\nd");
/// let lines: Vec<String> = lines.into_iter().map(|line| line.expect("UTF-8")).collect();
/// assert_eq!(lines, ["a", "", "bc", "d"]);
/// ```
#[track_caller]
pub fn check_decoder<D>(new: impl Fn() -> D, stream: &[u8]) -> Vec<Result<D::Item, D::Error>>
where
    D: Decoder<Item: Debug, Error: Debug>,
{
    let decode = |ends: &[usize]| {
        let mut codec = TokioCodec::new(new());
        let mut items = Vec::new();
        for piece in pieces(stream, ends) {
            items.extend(codec.decode(piece));
        }
        items.extend(codec.finish());
        items
    };
    let whole = decode(&[]);
    let expected = format!("{whole:?}");
    let check = |ends: &[usize]| {
        let found = format!("{:?}", decode(ends));
        let pieces = || pieces(stream, ends).map(<[u8]>::escape_ascii);
        assert!(
            found == expected,
            "the pieces {:?} give {found}; the uncut stream gives {expected}",
            pieces().map(|it| it.to_string()).collect::<Vec<_>>()
        );
    };
    let len = stream.len();
    for first in 1..len {
        check(&[first]);
        if len <= TWO_CUTS_LEN_MAX {
            (first + 1..len).for_each(|second| check(&[first, second]));
        }
    }
    check(&(1..len).collect::<Vec<_>>());
    let mut random = Random::new(1);
    (0..RANDOM_COUNT).for_each(|_| check(&random.ends(len)));
    whole
}
