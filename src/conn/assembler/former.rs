//! Replacing the framing, also in the middle of a frame that is skipped.
//!
//! A frame that is too long is skipped up to its end, even if the framing is replaced during the
//! skip. If the former framing finds the end by a search, the new framing cannot find this end. The
//! former framing then stays in use until the end of the frame:
//!
//! ```text
//!   | end of a skipped line \n | frames of the new framing
//!   `-----------+-------------'
//!               `-- skipped by the former framing
//! ```

use super::super::deframe::{notify, split_skip};
use super::super::partial::Former;
use super::super::sink::{Delivery, Flow, FrameSink};
use super::Assembler;
use crate::codec::{AnyState, CheckedStep, Framing, ScanState, SkipKind};
use crate::error::FrameError;

impl Assembler {
    /// Replaces the framing `former`, and keeps the bytes. A frame that is being skipped is skipped
    /// to its end.
    pub(crate) fn reframe(&mut self, former: &Framing) {
        let custom = *self.custom.take().unwrap_or_default();
        if let Some(partial) = &mut self.partial
            && !partial.has_former()
        {
            let mut state = AnyState::new(partial.scan, custom);
            if state.is_skipping(former.kind()) {
                let framing = former.clone();
                partial.set_former(Former(Box::new(move |bytes, has_ended| {
                    state.step(framing.kind(), bytes, has_ended)
                })));
            }
        }
        self.reframe_between_frames();
    }

    /// Replaces the framing between two frames, when no skip needs the former framing. Keeps the
    /// held bytes, and a skip of a known number of bytes.
    pub(crate) fn reframe_between_frames(&mut self) {
        self.custom = None;
        if let Some(partial) = &mut self.partial {
            partial.scan = ScanState::default();
            partial.set_due();
        }
    }

    pub(in crate::conn) fn has_former(&self) -> bool {
        let partial = self.partial.as_ref();
        partial.is_some_and(|partial| partial.has_former())
    }

    /// Appends `bytes` to the held bytes. The former framing then skips the frame at the start of
    /// the held bytes. Returns `None` if all bytes of this frame are skipped and the delivery
    /// continues: the caller must then decode the held bytes with the new framing.
    #[inline(never)]
    pub(in crate::conn) fn skip_by_former<S: FrameSink>(
        &mut self,
        bytes: &[u8],
        has_ended: bool,
        sink: &mut S,
    ) -> Option<Delivery> {
        let partial = self.partial.as_mut()?;
        let mut former = partial.take_former()?;
        partial.append(bytes, true, sink.pool());
        partial.buf.settle(sink.pool());
        loop {
            let partial = self.partial.as_mut()?;
            let skip = match (former.0)(partial.buf.bytes(), has_ended) {
                CheckedStep::Need(_) => {
                    partial.set_former(former);
                    self.end_decode(sink);
                    return Some(Delivery::NeedMore);
                }
                CheckedStep::Failed(error) => {
                    return Some(Delivery::failed(error.into(), partial.len()));
                }
                CheckedStep::Frame { .. } => {
                    let error = FrameError::Contract(
                        "`Frame` for a frame whose beginning was skipped by `SkipPart`",
                    );
                    return Some(Delivery::failed(error, partial.len()));
                }
                CheckedStep::Skip(skip) => skip,
            };
            let (here, beyond) = split_skip(skip.bytes, partial.len());
            partial.buf.consume(here);
            if skip.kind == SkipKind::Part {
                continue;
            }
            partial.since = sink.now();
            if beyond > 0 {
                partial.set_left_to_skip(beyond);
            } else if partial.is_empty() {
                self.put_partial(sink.pool());
            }
            let flow = notify(&skip, sink);
            self.end_decode(sink);
            return match flow {
                Flow::Break(()) => Some(Delivery::Stopped),
                Flow::Continue(()) if beyond > 0 => Some(Delivery::NeedMore),
                Flow::Continue(()) => None,
            };
        }
    }
}
