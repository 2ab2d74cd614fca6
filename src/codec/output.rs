//! A separate codec for the output of a framing.

use std::fmt;
use std::sync::Arc;

use super::{Framing, Kind};

/// The codecs of the two directions of a stream.
#[derive(Clone)]
pub(super) struct Codecs {
    /// Codec of the input.
    pub(super) input: Kind,
    /// Codec of the output; `None` if the output has the codec of the input.
    pub(super) output: Option<Kind>,
}

impl Framing {
    /// Returns a framing that decodes input like `self` and encodes output like `output`.
    ///
    /// Use this method for a protocol whose two directions are framed differently. The returned
    /// framing can be passed to every call that takes a framing: a listener, a connect,
    /// [`reframe`](crate::Context::reframe), [`Framer`](crate::Framer),
    /// [`FramedStream`](crate::FramedStream). To send only a few messages without their framing,
    /// call [`send_unframed`](crate::Context::send_unframed) instead.
    ///
    /// Set the options of `output` before this call. Later calls of
    /// [`frame_len_max`](Framing::frame_len_max), [`skip_too_long`](Framing::skip_too_long) and the
    /// other options change only the input. The short name describes only the input.
    ///
    /// # Examples
    ///
    /// A server for HTTP requests without a body. A request ends with an empty line. The program
    /// writes the whole reply, so a reply is sent unchanged:
    ///
    /// ```
    /// use unstick::{Deframer, Framer, Framing};
    ///
    /// let framing = Framing::delimiter(b"\r\n\r\n").with_output(Framing::raw());
    /// let mut requests = Deframer::new(framing.clone());
    /// requests.extend(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    /// assert_eq!(requests.next_frame()?, Some(&b"GET / HTTP/1.1\r\nHost: a"[..]));
    /// let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    /// assert_eq!(Framer::new(framing).frame(reply)?, reply);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_output(self, output: Self) -> Self {
        let mut codecs = Arc::unwrap_or_clone(self.0);
        codecs.output = Some(output.output().clone());
        Self(Arc::new(codecs))
    }

    /// Returns the codec of the output.
    pub(super) fn output(&self) -> &Kind {
        self.0.output.as_ref().unwrap_or(&self.0.input)
    }
}

impl fmt::Debug for Codecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.input.fmt(f)?;
        match &self.output {
            Some(output) => write!(f, ", output: {output:?}"),
            None => Ok(()),
        }
    }
}
