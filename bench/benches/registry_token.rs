//! Reading and verifying a SAS token against the two keys of a device.
#![forbid(unsafe_code)]

use criterion::{Criterion, criterion_group, criterion_main};
use registry::sas::{KeyForm, SasToken, sign};
use registry::{DeviceKey, DeviceKeys};

fn token(criterion: &mut Criterion) {
    let primary = DeviceKey::from_bytes(&[1; 32]).expect("32 bytes are a key");
    let secondary = DeviceKey::from_bytes(&[2; 32]).expect("32 bytes are a key");
    let text = sign("localhost/devices/dev1", &primary, KeyForm::Decoded, 2_000_000_000, None);
    let keys = DeviceKeys { primary, secondary };
    criterion.bench_function("registry/verify_token", |bencher| {
        bencher.iter(|| {
            let token = SasToken::parse(&text).expect("it is a token");
            token.verify_with_keys(&[&keys.primary, &keys.secondary], 1_900_000_000, 0).expect("it is good");
        });
    });
}

criterion_group!(benches, token);
criterion_main!(benches);
