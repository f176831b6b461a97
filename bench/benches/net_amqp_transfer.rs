//! Decoding and encoding a message of 256 B with properties and three application properties.
#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use net_amqp::{MessageBuilder, Properties, Sections, Value};

fn message(criterion: &mut Criterion) {
    let body = [0x5a; 256];
    let properties = Properties {
        message_id: Some(Value::String("11111111-2222-3333-4444-555555555555")),
        content_type: Some("application/json"),
        ..Properties::default()
    };
    let builder = MessageBuilder::default()
        .properties(properties)
        .application_property("colour", Value::String("green"))
        .application_property("level", Value::String("7"))
        .application_property("site", Value::String("north"))
        .data(&body);
    let encoded = builder.encode();
    let mut group = criterion.benchmark_group("net_amqp");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse_message", |bencher| {
        bencher.iter(|| Sections::parse(black_box(&encoded)).expect("it is a message"));
    });
    let mut out = Vec::with_capacity(1024);
    group.bench_function("encode_message", |bencher| {
        bencher.iter(|| {
            out.clear();
            builder.encode_to(black_box(&mut out));
        });
    });
    group.finish();
}

criterion_group!(benches, message);
criterion_main!(benches);
