//! The bytes that strict clients see: every field, in the forms that they can read.

use net_amqp::message::STANDARD_FORMAT;
use net_amqp::sasl::SaslCode;
use net_amqp::{Config, DeliveryState, Error, LinkRole, SaslRole, SendDelivery, condition};

use crate::pair::{End, Seen};
use crate::wire;

/// Bytes from hex digits; blanks and line ends are for the reader.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[track_caller]
fn check(output: &mut Vec<u8>, expected: &str) {
    let expected = hex(expected);
    assert_eq!(*output, expected, "\n{output:02x?}\n{expected:02x?}");
    output.clear();
}

fn hub() -> Config {
    Config {
        container_id: "DeviceGateway_0".into(),
        hostname: Some("localhost".into()),
        sasl: SaslRole::Offer(vec!["MSSBCBS", "PLAIN"]),
        ..Config::default()
    }
}

#[test]
fn a_connection_to_the_byte() {
    let mut end = End::new(net_amqp::Role::Server, hub());
    end.take(wire::SASL, 0);
    check(
        &mut end.output,
        "414d5150 03010000
         00000032 02010000 005340 d0 00000022 00000001
            f0 00000019 00000002 b3 00000007 4d535342434253 00000005 504c41494e",
    );
    end.take(&wire::sasl_init("PLAIN", b"\0a\0b"), 0);
    end.connection.sasl_outcome(SaslCode::Ok, &mut end.output);
    check(&mut end.output, "00000020 02010000 005344 d0 00000010 00000002 5000 a008 57656c636f6d6521");
    end.take(wire::AMQP, 0);
    check(&mut end.output, "414d5150 00010000");

    // open: ten fields.
    end.take(&wire::open(u32::MAX), 0);
    check(
        &mut end.output,
        "00000042 02000000 005310 d0 00000032 0000000a
            a10f 446576696365476174657761795f30 a109 6c6f63616c686f7374
            70 00010000 60 1fff 70 0003a980 40 40 40 40 40",
    );

    // begin: eight fields, the first transfer id 1, our channel beside the peer's.
    end.take(&wire::begin(5, 2048), 0);
    check(
        &mut end.output,
        "0000002b 02000000 005311 d0 0000001b 00000008
            60 0005 5201 70 00001388 70 00000800 70 0003ffff 40 40 40",
    );
    end.events();

    // attach as the receiver: fourteen fields, source and target with all of theirs, no initial-delivery-count.
    end.take(&wire::attach_frame(5, "link", 3, LinkRole::Sender), 0);
    let Seen::Attached { link: receiver, .. } = end.event() else { panic!("an attach") };
    end.accept(receiver);
    check(
        &mut end.output,
        "00000080 02000000 005312 d0 00000070 0000000e
            a104 6c696e6b 5203 41 5002 5000
            005328 d0 00000022 0000000b a106 736f75726365 43 a30b 73657373696f6e2d656e64 43 42 40 40 40 40 40 40
            005329 d0 0000001e 00000007 a106 746172676574 43 a30b 73657373696f6e2d656e64 43 42 40 40
            40 42 40 80 0000000000100000 40 40 40",
    );

    // flow of the link: eleven fields.
    end.grant(receiver, 1000);
    check(
        &mut end.output,
        "0000002d 02000000 005313 d0 0000001d 0000000b
            43 70 00001388 5201 70 00000800 5203 43 70 000003e8 43 42 42 40",
    );

    // disposition of one delivery: last is null, accepted is a list0, batchable is null.
    end.take(&wire::transfer(5, &wire::delivery(3, 7), b""), 0);
    end.take(&wire::transfer(5, &wire::delivery(3, 8), b""), 0);
    end.take(&wire::transfer(5, &wire::delivery(3, 9), b""), 0);
    end.events();
    assert!(end.settle(receiver, 7, 7, &DeliveryState::Accepted));
    check(&mut end.output, "00000018 02000000 005315 c0 0b 06 41 5207 40 41 00532445 40");
    assert!(end.settle(receiver, 8, 9, &DeliveryState::Accepted));
    check(&mut end.output, "00000019 02000000 005315 c0 0c 06 41 5208 5209 41 00532445 40");

    // attach as the sender: initial-delivery-count 0.
    end.take(&wire::attach_frame(5, "link", 4, LinkRole::Receiver), 0);
    let Seen::Attached { link: sender, .. } = end.event() else { panic!("an attach") };
    end.accept(sender);
    assert!(end.output.ends_with(&hex("40 42 43 80 0000000000100000 40 40 40")));
    end.output.clear();

    // transfer: eleven fields, then the payload.
    end.take(&wire::amqp(5, |out| wire::flow(Some(4), Some(9)).encode(out)), 0);
    let delivery = SendDelivery {
        tag: &[1, 0, 0, 0],
        message_format: STANDARD_FORMAT,
        settled: true,
        payload: &[&hex("005375"), &hex("a001"), b"x"],
    };
    end.connection.send(sender, &delivery, &mut end.output).unwrap();
    check(
        &mut end.output,
        "00000026 02000000 005314 c0 13 0b 5204 5201 a004 01000000 43 41 42 40 40 42 42 42 005375 a001 78",
    );

    // A refusal: no termini, then a detach with the three fields of its error.
    end.take(&wire::attach_frame(5, "no", 5, LinkRole::Receiver), 0);
    let Some(Seen::Attached { link, .. }) = end.events().pop() else { panic!("an attach") };
    end.connection.refuse_link(link, &Error::new(condition::NOT_FOUND, "no"), &mut end.output);
    check(
        &mut end.output,
        "00000030 02000000 005312 d0 00000020 0000000e
            a102 6e6f 5205 42 5002 5000 40 40 40 42 40 80 0000000000100000 40 40 40
         00000038 02000000 005316 d0 00000028 00000003 5205 41
            00531d d0 00000019 00000003 a30e 616d71703a6e6f742d666f756e64 a102 6e6f 40",
    );

    end.take(&wire::close(), 0);
    check(&mut end.output, "00000015 02000000 005318 d0 00000005 00000001 40");
}
