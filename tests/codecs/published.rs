//! Four published codecs for tokio-util, used unchanged with the reactor. Their items do not depend
//! on the cuts of a stream. The codecs also work over a real connection.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use tokio_util::codec::{Decoder, Encoder};
use unstick::testkit::check_decoder;
use unstick::{Closed, ConnId, Context, Framing, Handler, Origin, Reactor, TokioCodec};

/// Returns the bytes of items, one after the other.
fn encoded<C, I>(codec: C, items: impl IntoIterator<Item = I>) -> Vec<u8>
where
    C: Encoder<I, Error: Debug>,
{
    let mut codec = TokioCodec::new(codec);
    let mut bytes = Vec::new();
    for item in items {
        bytes.extend(codec.encode(item).expect("the item can be encoded"));
    }
    bytes
}

/// A server that sends each item back, by the codec that `new` makes for each connection.
struct Echo<C> {
    new: fn() -> C,
}

impl<C: Decoder + Encoder<<C as Decoder>::Item>> Handler for Echo<C> {
    type Session = Option<TokioCodec<C>>;

    fn on_open(
        &mut self,
        _: &mut Context<'_, Self>,
        _: ConnId,
        codec: &mut Self::Session,
        _: Origin,
    ) {
        *codec = Some(TokioCodec::new((self.new)()));
    }

    fn on_frame(
        &mut self,
        cx: &mut Context<'_, Self>,
        conn: ConnId,
        codec: &mut Self::Session,
        read: &[u8],
    ) {
        let codec = codec.as_mut().expect("`on_open` made the codec");
        let items: Vec<_> = codec.decode(read).filter_map(Result::ok).collect();
        for item in items {
            if let Ok(bytes) = codec.encode(item) {
                let _ = cx.send(conn, bytes);
            }
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: Self::Session, _: Closed) {
        cx.stop();
    }
}

/// Sends a stream to an echo server in pieces of three bytes. Returns the bytes that come back.
fn echoed<C>(new: fn() -> C, stream: &[u8]) -> Vec<u8>
where
    C: Decoder + Encoder<<C as Decoder>::Item>,
{
    let mut reactor = Reactor::new(Echo { new }).expect("the poll opens");
    let listener = reactor.listen("127.0.0.1:0", Framing::raw());
    let listener = listener.expect("a port is free");
    let addr = reactor.local_inet_addr(listener).expect("it is open");
    let stream = stream.to_vec();
    let client = thread::spawn(move || {
        let mut socket = TcpStream::connect(addr).expect("the server listens");
        socket.set_nodelay(true).expect("the socket is open");
        let timeout = Some(Duration::from_secs(60));
        socket.set_read_timeout(timeout).expect("the time is valid");
        for piece in stream.chunks(3) {
            socket.write_all(piece).expect("the server reads");
        }
        socket
            .shutdown(Shutdown::Write)
            .expect("the socket is open");
        let mut received = Vec::new();
        socket.read_to_end(&mut received).expect("the server sends");
        received
    });
    reactor.run().expect("the poll works");
    client.join().expect("the client does not panic")
}

/// Checks that a codec decodes a stream in every cut, and echoes it over a connection.
fn check<C>(new: fn() -> C, stream: &[u8], items: &[String])
where
    C: Decoder<Item: Debug, Error: Debug> + Encoder<<C as Decoder>::Item>,
{
    let decoded = check_decoder(new, stream);
    let decoded = decoded.into_iter().map(|item| item.expect("it is valid"));
    assert_eq!(
        decoded.map(|it| format!("{it:?}")).collect::<Vec<_>>(),
        items
    );
    assert_eq!(
        echoed(new, stream).escape_ascii().to_string(),
        stream.escape_ascii().to_string()
    );
}

#[test]
fn redis_protocol_decodes_commands_and_replies() {
    use redis_protocol::codec::{Resp2, resp2_encode_command};
    use redis_protocol::resp2::types::BytesFrame;

    let frames = [
        resp2_encode_command("SET greeting hello"),
        BytesFrame::SimpleString("OK".into()),
        BytesFrame::Integer(-7),
        BytesFrame::Null,
    ];
    let stream = encoded(Resp2::default(), frames.clone());
    check(Resp2::default, &stream, &frames.map(|it| format!("{it:?}")));
}

#[test]
fn irc_proto_decodes_messages() {
    use irc_proto::{Command, IrcCodec, Message};

    let new = || IrcCodec::new("utf-8").expect("the encoding is known");
    let messages: [Message; 3] = [
        Command::NICK("ada".to_owned()).into(),
        Command::JOIN("#unstick".to_owned(), None, None).into(),
        Command::PRIVMSG("#unstick".to_owned(), "good morning".to_owned()).into(),
    ];
    let stream = encoded(new(), messages.clone());
    check(new, &stream, &messages.map(|it| format!("{it:?}")));
}

#[test]
fn cobs_codec_decodes_packets() {
    type Cobs = cobs_codec::Codec<0, 0, 0, 100>;

    let packets = [&b"a"[..], b"\0\0", b"", &[7; 60]];
    let stream = encoded(Cobs::new(), packets);
    let items = packets.map(|it| format!("{:?}", bytes::BytesMut::from(it)));
    check(Cobs::new, &stream, &items);
}

/// The codec of a server decodes masked messages, and sends unmasked ones. So the stream that comes
/// back differs from the one that was sent.
#[test]
fn websocket_codec_decodes_messages() {
    use websocket_codec::{Message, MessageCodec};

    let messages = [
        Message::text("hello"),
        Message::binary(vec![1; 200]),
        Message::ping(vec![2]),
    ];
    let stream = encoded(MessageCodec::client(), messages.clone());
    let decoded = check_decoder(MessageCodec::server, &stream);
    let decoded: Vec<_> = decoded
        .into_iter()
        .map(|it| it.expect("it is valid"))
        .collect();
    assert_eq!(decoded, messages);
    let unmasked = encoded(MessageCodec::server(), messages);
    assert_eq!(echoed(MessageCodec::server, &stream), unmasked);
}
