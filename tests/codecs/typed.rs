//! Typed messages by serde, over several framings: each frame is one message as JSON.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;

use serde::{Deserialize, Serialize};
use unstick::{
    Closed, ConnId, Context, Deframer, FrameError, Framer, Framing, Handler, Reactor, SendError,
    Sent,
};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Message {
    Add { a: i64, b: i64 },
    Sum { sum: i64 },
    Invalid { reason: String },
}

/// Sends a message. serde writes it directly to the output of the connection.
fn send<H: Handler>(
    cx: &mut Context<'_, H>,
    conn: ConnId,
    message: &Message,
) -> Result<Sent, SendError> {
    cx.send_with(conn, |out| {
        serde_json::to_writer(out, message).map_err(FrameError::other)
    })
}

struct Calculator;

impl Handler for Calculator {
    type Session = ();

    fn on_frame(&mut self, cx: &mut Context<'_, Self>, conn: ConnId, _: &mut (), frame: &[u8]) {
        let reply = match serde_json::from_slice(frame) {
            Ok(Message::Add { a, b }) => Message::Sum {
                sum: a.saturating_add(b),
            },
            Ok(message) => Message::Invalid {
                reason: format!("{message:?} is not a request"),
            },
            Err(error) => Message::Invalid {
                reason: error.to_string(),
            },
        };
        if send(cx, conn, &reply).is_err() {
            cx.close(conn);
        }
    }

    fn on_close(&mut self, cx: &mut Context<'_, Self>, _: ConnId, _: (), _: Closed) {
        cx.stop();
    }
}

/// Sends payloads to the server, each as a frame. Returns its replies.
fn exchange(framing: Framing, payloads: &[&str]) -> Vec<Message> {
    let mut reactor = Reactor::new(Calculator).expect("the poll opens");
    let listener = reactor.listen("127.0.0.1:0", framing.clone());
    let listener = listener.expect("a port is free");
    let addr = reactor.local_inet_addr(listener).expect("it is open");
    let mut framer = Framer::new(framing.clone());
    let mut stream = Vec::new();
    for payload in payloads {
        stream.extend(
            framer
                .frame(payload.as_bytes())
                .expect("it fits the framing"),
        );
    }
    let client = thread::spawn(move || {
        let mut socket = TcpStream::connect(addr).expect("the server listens");
        socket.write_all(&stream).expect("the server reads");
        socket
            .shutdown(Shutdown::Write)
            .expect("the socket is open");
        let mut deframer = Deframer::new(framing);
        let mut replies = Vec::new();
        while let Some(frame) = deframer.read_frame(&mut socket).expect("valid frames") {
            replies.push(serde_json::from_slice(frame).expect("a valid message"));
        }
        replies
    });
    reactor.run().expect("the poll works");
    client.join().expect("the client does not panic")
}

#[test]
fn typed_messages_travel_over_three_framings() {
    for framing in [Framing::line(), Framing::length_u32(), Framing::netstring()] {
        let add = r#"{"type":"add","a":1,"b":2}"#;
        let replies = exchange(framing, &[add, r#"{"type":"sum","sum":1}"#, "{"]);
        assert_eq!(replies[0], Message::Sum { sum: 3 });
        assert!(matches!(&replies[1], Message::Invalid { reason } if reason.contains("Sum")));
        assert!(matches!(&replies[2], Message::Invalid { reason } if reason.contains("EOF")));
        assert_eq!(replies.len(), 3);
    }
}
