//! GSO runs: queued datagrams that the kernel takes as one message, and splits again (generic
//! segmentation offload).

use std::iter;
use std::net::SocketAddr;

use super::{DatagramQueue, Marks};

/// Consecutive queued datagrams with the same destination and the same marks. All are as long as
/// the first datagram, except the last, which may be shorter. The kernel takes the run as one
/// message, and splits it into the datagrams again.
///
/// ```text
///   | segment_len | segment_len | segment_len | up to segment_len |
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GsoRun<'a> {
    /// Destination; `None` if the datagrams go to the connected peer.
    pub(crate) to: Option<SocketAddr>,
    /// Source address and traffic class, if the program set them.
    pub(crate) marks: Option<&'a Marks>,
    pub(crate) data: &'a [u8],
    pub(crate) segment_len: usize,
    /// Number of datagrams; at least 1.
    pub(crate) count: usize,
}

/// Maximum number of datagrams of a GSO run. Every Linux with GSO takes this number of segments
/// (`UDP_MAX_SEGMENTS`).
const RUN_COUNT_MAX: usize = 64;
/// Maximum length of a GSO run: the 65,535 bytes of a packet minus the headers of IPv4 and UDP.
const RUN_LEN_MAX: usize = 65_507;

impl<'a> GsoRun<'a> {
    /// Creates the run of one datagram.
    pub(crate) fn one(to: Option<SocketAddr>, marks: Option<&'a Marks>, data: &'a [u8]) -> Self {
        Self {
            to,
            marks,
            data,
            segment_len: data.len(),
            count: 1,
        }
    }

    pub(crate) fn is_one(&self) -> bool {
        self.count == 1
    }

    /// Returns true if the datagrams must leave from a given source address.
    pub(crate) fn has_source(&self) -> bool {
        self.marks.is_some_and(|marks| marks.source.is_some())
    }

    /// Returns true if the destination is an IPv4 address, in IPv4 form or mapped into IPv6.
    pub(crate) fn is_to_v4(&self) -> bool {
        self.to.is_some_and(|to| to.ip().to_canonical().is_ipv4())
    }

    /// Returns true if both runs can be sent with one system call. The control data of both runs
    /// must be equal. Either each run is one datagram, or both runs have several datagrams and the
    /// same segment length.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let are_one = self.is_one() && other.is_one();
        let are_runs = !self.is_one() && !other.is_one() && self.segment_len == other.segment_len;
        // The control data of a traffic class depend on the address family of the destination.
        let has_tos = self.marks.is_some_and(|marks| marks.tos.is_some());
        let control_is_equal =
            self.marks == other.marks && (!has_tos || self.is_to_v4() == other.is_to_v4());
        (are_one || are_runs) && control_is_equal
    }
}

impl DatagramQueue {
    /// Returns all datagrams, oldest first, as GSO runs with segments of at most `segment_len_max`
    /// bytes. A longer or an empty datagram is a run of one datagram.
    pub(crate) fn runs(&self, segment_len_max: usize) -> impl Iterator<Item = GsoRun<'_>> {
        // Index of the next datagram, payload from this datagram on, and index of the next marks.
        let (mut next, mut payload, mut next_marks) = (0, self.payload.bytes(), 0);
        iter::from_fn(move || {
            let first = *self.heads.get(next)?;
            let marks = first
                .has_marks
                .then(|| self.marks.get(next_marks))
                .flatten();
            let mut len = first.len as usize;
            let mut count = 1;
            if (1..=segment_len_max).contains(&len) {
                for head in self.heads.range(next + 1..) {
                    let belongs = head.to == first.to
                        && (1..=first.len).contains(&head.len)
                        && len + head.len as usize <= RUN_LEN_MAX
                        && head.has_marks == first.has_marks
                        && (!head.has_marks || self.marks.get(next_marks + count) == marks);
                    if !belongs || count == RUN_COUNT_MAX {
                        break;
                    }
                    len += head.len as usize;
                    count += 1;
                    if head.len < first.len {
                        break;
                    }
                }
            }
            let (data, rest) = payload.split_at(len);
            payload = rest;
            next += count;
            next_marks += if first.has_marks { count } else { 0 };
            Some(GsoRun {
                to: first.to,
                marks,
                data,
                segment_len: first.len as usize,
                count,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks also that the runs contain all queued datagrams in order.
    #[test]
    fn only_the_last_datagram_of_a_gso_run_is_shorter() {
        let addrs: [SocketAddr; 2] = [([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()];
        let marks = [None, Some(1), Some(2)].map(|tos| {
            tos.map(|tos| Marks {
                source: None,
                tos: Some(tos),
            })
        });
        let lens = [5, 5, 5, 3, 3, 0, 0, 5, 5, 6, 5, 5, 2, 2, 9, 9, 9];
        for segment_len_max in [0, 4, 5, 65_535] {
            let mut queue = DatagramQueue::default();
            let mut sent = Vec::new();
            for at in 0..300 {
                let to = addrs[at / 7 % 2];
                let marks = marks[at / 9 % 3];
                let data = vec![at.to_le_bytes()[0]; lens[at % lens.len()]];
                assert!(queue.push(Some(to), marks.as_ref(), &data, usize::MAX));
                sent.push((to, marks, data));
            }
            let mut at = 0;
            for run in queue.runs(segment_len_max) {
                let GsoRun {
                    segment_len, count, ..
                } = run;
                assert!(run.is_one() || (1..=segment_len_max).contains(&segment_len));
                assert_eq!(run.data.len().div_ceil(segment_len.max(1)).max(1), count);
                let mut rest = run.data;
                for _ in 0..count {
                    let (data, after) = rest.split_at(segment_len.min(rest.len()));
                    assert_eq!(
                        sent[at],
                        (
                            run.to.expect("the run has a destination"),
                            run.marks.copied(),
                            data.to_vec()
                        )
                    );
                    rest = after;
                    at += 1;
                }
            }
            assert_eq!(at, sent.len());
            let runs = queue.runs(segment_len_max).count();
            assert_eq!(
                runs == sent.len(),
                segment_len_max == 0,
                "the queue is split into {runs} runs"
            );
        }
    }

    #[test]
    fn a_gso_run_ends_at_the_limits_of_the_kernel() {
        let mut queue = DatagramQueue::default();
        for _ in 0..200 {
            assert!(queue.push(None, None, &[1], usize::MAX));
        }
        let counts: Vec<_> = queue.runs(1).map(|run| run.count).collect();
        assert_eq!(counts, [64, 64, 64, 8]);
        assert_eq!(queue.pop(200), 200);
        for _ in 0..3 {
            assert!(queue.push(None, None, &[1; 32_754], usize::MAX));
        }
        let lens: Vec<_> = queue.runs(65_535).map(|run| run.data.len()).collect();
        assert_eq!(
            lens, [32_754; 3],
            "two datagrams exceed the maximum length of a run by one byte"
        );
    }
}
