//! Unstick itself, with its defaults: the echo server of its guide.

use std::io;

use unstick::{ConnId, Context, Framing, Handler, Reactor};

use super::{announce, on_frame};

pub(super) fn serve() -> io::Result<()> {
    let mut reactor = Reactor::new(Echo)?;
    let listener = reactor.listen("127.0.0.1:0", Framing::length_u32())?;
    announce(reactor.local_addr(listener)?.port())?;
    reactor.run()
}

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        // An echo that is refused is missed by the load, which ends with an error.
        let _ = cx.send(conn, on_frame(frame));
    }
}
