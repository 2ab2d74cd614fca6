//! Decoding of new bytes: first the partial frame in its buffer, then the frames after it in place.

use std::ops::ControlFlow;

use super::super::Pool;
use super::super::deframe::{End, deliver_all, deliver_next, split_skip};
use super::super::partial::Partial;
use super::super::sink::{Delivery, Flow, FrameSink};
use super::Assembler;
use crate::codec::{Decoder, Lookahead};
use crate::timer::Stamp;

/// Result of continuing the partial frame with new bytes.
enum Continued {
    /// The frame is still partial, and more new bytes are available.
    Partial,
    /// The frame is delivered or skipped. The caller must decode the bytes after the frame in
    /// place. If the assembler still has a buffer, the buffer is empty and may be reused.
    Delivered,
    /// The decode call has ended.
    Ended(Delivery),
}

impl Assembler {
    /// Decodes new bytes: continues the partial frame in its buffer, and delivers the frames after
    /// it in place.
    #[inline(always)]
    pub(in crate::conn) fn feed<S: FrameSink, D: Decoder>(
        &mut self,
        bytes: &[u8],
        sink: &mut S,
        mut decoder: D,
    ) -> Delivery {
        let mut at = 0;
        while self.partial.is_some() {
            match self.continue_partial(bytes, &mut at, sink, &mut decoder) {
                Continued::Partial => {}
                Continued::Delivered => break,
                Continued::Ended(outcome) => return outcome,
            }
        }
        // The code above has taken the address of the old `decoder`. A fresh copy lets the compiler
        // keep the fields of the decoder in registers while `deliver_all` loops.
        let mut decoder = decoder;
        let mut undecoded = &bytes[at..];
        if let ControlFlow::Break(end) = deliver_all(&mut undecoded, sink, &mut decoder) {
            if let End::Need(need) = end
                && let Some(partial) = &mut self.partial
                && partial.is_suitable(undecoded.len(), need)
            {
                sink.split(undecoded);
                partial.put_first(undecoded, need, sink.now(), sink.pool());
                return Delivery::NeedMore;
            }
            return self.keep_undecoded(undecoded, end, sink);
        }
        if self.partial.is_some() {
            self.put_partial(sink.pool());
        }
        Delivery::NeedMore
    }

    /// Continues the partial frame with the bytes from `at` on, and advances `at`. Searches for the
    /// end of the frame before it copies bytes.
    #[inline(always)]
    fn continue_partial<S: FrameSink, D: Decoder>(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        sink: &mut S,
        decoder: &mut D,
    ) -> Continued {
        let Some(partial) = &mut self.partial else {
            return Continued::Delivered;
        };
        let left = &bytes[*at..];
        if partial.is_skipping() {
            return match self.continue_any_skip(left, at, sink) {
                Some(continued) => continued,
                None => Continued::Ended(self.decode_held(sink, decoder)),
            };
        }
        let step_after = match decoder.ahead(&partial.buf, left) {
            Lookahead::Ends { len, payload_len } => {
                partial.append(&left[..len], false, sink.pool());
                *at += len;
                partial.buf.settle(sink.pool());
                let flow = sink.frame(&partial.buf.bytes()[..payload_len]);
                partial.buf.clear();
                return self.continue_after_frame(&bytes[*at..], flow, sink);
            }
            Lookahead::Inside => {
                partial.append(left, false, sink.pool());
                partial.need_more();
                return Continued::Ended(Delivery::NeedMore);
            }
            Lookahead::StepAfter(len) => Some(len),
            Lookahead::Unknown => None,
        };
        self.step_partial(bytes, at, step_after, sink, decoder)
    }

    /// Continues the partial frame with the bytes from `at` on. A decode step runs once the codec
    /// has the bytes that it needs, or after `step_after` bytes.
    #[inline(never)]
    fn step_partial<S: FrameSink, D: Decoder>(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        step_after: Option<usize>,
        sink: &mut S,
        decoder: &mut D,
    ) -> Continued {
        let left = &bytes[*at..];
        let Some(partial) = &mut self.partial else {
            return Continued::Delivered;
        };
        let (len, is_due) = partial.next_append(left.len(), step_after);
        // If the length of the frame is unknown, the step below settles the buffer at once.
        let is_settled_next = step_after.is_none() && partial.is_open_ended();
        partial.append(&left[..len], is_settled_next, sink.pool());
        *at += len;
        if !is_due {
            return Continued::Ended(Delivery::NeedMore);
        }

        partial.buf.settle(sink.pool());
        let mut undecoded = partial.buf.bytes();
        let end = deliver_next(&mut undecoded, sink, decoder);
        let undecoded_len = undecoded.len();
        let consumed = partial.len() - undecoded_len;
        let flow = match end {
            ControlFlow::Continue(()) => Flow::Continue(()),
            ControlFlow::Break(End::Stopped) => Flow::Break(()),
            ControlFlow::Break(End::Need(need)) => {
                partial.buf.consume(consumed);
                partial.set_need(need);
                return match *at < bytes.len() {
                    true => Continued::Partial,
                    false => Continued::Ended(Delivery::NeedMore),
                };
            }
            ControlFlow::Break(End::Skip { beyond, flow }) => {
                let (here, beyond) = split_skip(beyond, bytes.len() - *at);
                *at += here;
                if beyond > 0 {
                    let since = partial.since;
                    self.keep_skip(beyond, since, sink.pool());
                    return Continued::Ended(flow.into());
                }
                flow
            }
            ControlFlow::Break(End::Failed(error)) => {
                let undecoded_len = undecoded_len + bytes.len() - *at;
                partial.buf.consume(consumed);
                return Continued::Ended(Delivery::failed(error, undecoded_len));
            }
        };
        if undecoded_len > *at || *at == bytes.len() {
            partial.buf.consume(consumed);
            return self.decode_on_in_buffer(&bytes[*at..], flow, sink, decoder);
        }
        // All undecoded bytes of the buffer are also in `bytes`. The decoding continues in `bytes`.
        *at -= undecoded_len;
        partial.buf.clear();
        self.continue_after_frame(&bytes[*at..], flow, sink)
    }

    /// Continues after a partial frame that is delivered or skipped. The bytes after it are decoded
    /// in place, or stored if the sink has stopped the delivery.
    fn continue_after_frame<S: FrameSink>(
        &mut self,
        undecoded: &[u8],
        flow: Flow,
        sink: &mut S,
    ) -> Continued {
        match flow {
            Flow::Continue(()) => Continued::Delivered,
            Flow::Break(()) => Continued::Ended(self.keep_undecoded(undecoded, End::Stopped, sink)),
        }
    }

    /// Continues to decode in the buffer, after a frame that is delivered or skipped. `more` is the
    /// part of the new bytes that the buffer does not contain yet.
    fn decode_on_in_buffer<S: FrameSink, D: Decoder>(
        &mut self,
        more: &[u8],
        flow: Flow,
        sink: &mut S,
        decoder: &mut D,
    ) -> Continued {
        if let Some(partial) = &mut self.partial {
            partial.since = sink.now();
            partial.set_undecoded();
            partial.append(more, true, sink.pool());
            if partial.is_empty() {
                self.put_partial(sink.pool());
            }
        }
        Continued::Ended(match flow {
            Flow::Break(()) => Delivery::Stopped,
            Flow::Continue(()) => self.decode_held(sink, decoder),
        })
    }

    /// Skips bytes of `left`, and advances `at`. Skips either a known number of bytes, or the bytes
    /// that a former framing skips. Returns `None` if the former framing has reached the end of the
    /// skipped frame. The buffer then holds the bytes after the skipped frame, and the caller must
    /// decode them.
    fn continue_any_skip<S: FrameSink>(
        &mut self,
        left: &[u8],
        at: &mut usize,
        sink: &mut S,
    ) -> Option<Continued> {
        if !self.has_former() {
            return Some(self.continue_skip(left.len(), at, sink.pool()));
        }
        *at += left.len();
        let outcome = self.skip_by_former(left, false, sink)?;
        Some(Continued::Ended(outcome))
    }

    /// Skips up to `left_len` bytes, and advances `at`.
    fn continue_skip(&mut self, left_len: usize, at: &mut usize, pool: &mut Pool) -> Continued {
        if let Some(partial) = &mut self.partial {
            let (here, beyond) = split_skip(partial.left_to_skip(), left_len);
            *at += here;
            if beyond > 0 {
                partial.set_left_to_skip(beyond);
                return Continued::Ended(Delivery::NeedMore);
            }
        }
        self.put_partial(pool);
        Continued::Delivered
    }

    /// Stores `bytes`, the next bytes of the stream, without decoding them. If a known number of
    /// bytes must still be skipped, drops these bytes first.
    pub(crate) fn hold(&mut self, bytes: &[u8], now: Stamp, pool: &mut Pool) {
        let mut at = 0;
        if self.left_to_skip() > 0
            && let Continued::Ended(_) = self.continue_skip(bytes.len(), &mut at, pool)
        {
            return;
        }
        match &mut self.partial {
            Some(partial) => {
                partial.append(&bytes[at..], false, pool);
                partial.set_former_due();
            }
            None => self.keep(&bytes[at..], 0, now, pool),
        }
    }

    /// Decodes the bytes held, in their buffer.
    #[inline(never)]
    pub(in crate::conn) fn decode_held<S: FrameSink, D: Decoder>(
        &mut self,
        sink: &mut S,
        decoder: &mut D,
    ) -> Delivery {
        let Some(partial) = &mut self.partial else {
            return Delivery::NeedMore;
        };
        let was_undecoded = partial.is_undecoded();
        partial.buf.settle(sink.pool());
        let mut undecoded = partial.buf.bytes();
        let mut end = deliver_next(&mut undecoded, sink, decoder);
        // If the first step needs more bytes, the partial frame is the first frame in the buffer.
        // The codec may have dropped the beginning of this frame.
        let is_same_frame = matches!(end, ControlFlow::Break(End::Need(_)));
        if end.is_continue() {
            end = deliver_all(&mut undecoded, sink, decoder);
        }
        let consumed = partial.len() - undecoded.len();
        partial.buf.consume(consumed);
        if consumed > 0 {
            partial.since = sink.now();
        }
        partial.set_undecoded();
        let outcome = match end {
            ControlFlow::Continue(()) => Delivery::NeedMore,
            ControlFlow::Break(End::Need(need)) => {
                partial.set_need(need);
                if was_undecoded || !is_same_frame {
                    sink.split(partial.buf.bytes());
                }
                Delivery::NeedMore
            }
            ControlFlow::Break(End::Skip { beyond, flow }) => {
                self.keep_skip(beyond, sink.now(), sink.pool());
                return flow.into();
            }
            ControlFlow::Break(End::Stopped) => Delivery::Stopped,
            ControlFlow::Break(End::Failed(error)) => Delivery::failed(error, partial.len()),
        };
        if partial.is_empty() {
            self.put_partial(sink.pool());
        } else if partial.is_to_shrink(was_undecoded) {
            partial.shrink(sink.pool());
        }
        outcome
    }

    /// Stores the bytes that the decode loop has not decoded, and returns the result of the decode
    /// call. After a failure, stores nothing.
    #[inline(never)]
    fn keep_undecoded<S: FrameSink>(
        &mut self,
        undecoded: &[u8],
        end: End,
        sink: &mut S,
    ) -> Delivery {
        let now = sink.now();
        match end {
            End::Need(need) => {
                sink.split(undecoded);
                self.keep(undecoded, need, now, sink.pool());
                Delivery::NeedMore
            }
            End::Skip { beyond, flow } => {
                self.keep_skip(beyond, now, sink.pool());
                flow.into()
            }
            End::Stopped => {
                self.keep(undecoded, 0, now, sink.pool());
                Delivery::Stopped
            }
            End::Failed(error) => {
                self.put_partial(sink.pool());
                Delivery::failed(error, undecoded.len())
            }
        }
    }

    /// Stores `bytes`. If `need` is zero, they are undecoded bytes. Otherwise they are the first
    /// bytes of a frame that needs `need` bytes. Reuses the empty buffer if its capacity is
    /// suitable.
    fn keep(&mut self, bytes: &[u8], need: usize, now: Stamp, pool: &mut Pool) {
        if bytes.is_empty() {
            return self.put_partial(pool);
        }
        match &mut self.partial {
            Some(empty) if empty.is_suitable(bytes.len(), need) => {
                empty.put_first(bytes, need, now, pool);
            }
            _ => {
                self.put_partial(pool);
                self.partial = Some(Partial::with_bytes(bytes, need, now, pool));
            }
        }
    }

    /// Stores the number of bytes to skip that have not arrived.
    fn keep_skip(&mut self, left: u64, since: Stamp, pool: &mut Pool) {
        self.put_partial(pool);
        self.partial = Some(Partial::skipping(left, since, pool));
    }
}
