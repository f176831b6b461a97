//! Every constructor, and what is refused.

use super::*;

#[test]
fn null_has_no_bytes_but_its_constructor() {
    assert_eq!(Decoder::new(&[0x40]).value(), Ok(Value::Null));
}
