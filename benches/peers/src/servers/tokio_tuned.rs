//! An echo server with tuned tokio: it feeds all ready frames, then flushes with one write.

use std::io;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{announce, on_frame};

/// Bytes collected before a write; the default of tokio-util, 8 KiB, would split a batch.
const BACKPRESSURE_BOUNDARY: usize = 256 * 1024;

pub(super) fn serve() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?.port())?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // An error ends only its own connection.
            tokio::spawn(async move { drop(echo(stream).await) });
        }
    })
}

/// Echoes the frames of a connection, with or without TLS.
pub(super) async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut framed = Framed::new(stream, LengthDelimitedCodec::new());
    framed.set_backpressure_boundary(BACKPRESSURE_BOUNDARY);
    let mut next = framed.next().await;
    while let Some(frame) = next {
        framed.feed(on_frame(&frame?)).await?;
        // After a short read, tokio knows that the socket is empty. Then `next` makes no system
        // call here.
        next = match framed.next().now_or_never() {
            Some(ready) => ready,
            None => {
                flush(&mut framed).await?;
                framed.next().await
            }
        };
    }
    flush(&mut framed).await
}

/// Writes all frames that were fed. The codec accepts several frame types, so `flush` must name
/// one.
async fn flush<S>(framed: &mut Framed<S, LengthDelimitedCodec>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    SinkExt::<&[u8]>::flush(framed).await
}
