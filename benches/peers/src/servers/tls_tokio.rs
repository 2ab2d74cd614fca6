//! Echo servers with tokio-rustls, idiomatic and tuned. Only the handshake differs from the servers
//! without TLS.

use std::io;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{announce, tokio as idiomatic, tokio_tuned as tuned};
use crate::tls;

pub(super) fn serve() -> io::Result<()> {
    serve_with(idiomatic::echo)
}

pub(super) fn serve_tuned() -> io::Result<()> {
    serve_with(tuned::echo)
}

fn serve_with<F>(echo: fn(TlsStream<TcpStream>) -> F) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let acceptor = TlsAcceptor::from(tls::server_config()?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?.port())?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let acceptor = acceptor.clone();
            // An error ends only its own connection.
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    drop(echo(stream).await);
                }
            });
        }
    })
}
