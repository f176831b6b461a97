//! Serial number arithmetic [RFC 1982], by which transfer ids, delivery ids and delivery counts wrap [AMQP 2.8.10].

/// Whether `a` comes before `b`: their distance going up from `a` is less than half the circle and not zero.
///
/// ```
/// use net_amqp::serial::is_before;
/// assert!(is_before(1, 2));
/// assert!(is_before(u32::MAX, 0));
/// assert!(!is_before(0, u32::MAX));
/// assert!(!is_before(7, 7));
/// ```
pub fn is_before(a: u32, b: u32) -> bool {
    let distance = b.wrapping_sub(a);
    distance != 0 && distance < 1 << 31
}

/// How far `b` lies behind `a`, or 0 when it lies before it.
///
/// ```
/// use net_amqp::serial::distance;
/// assert_eq!(distance(u32::MAX, 1), 2);
/// assert_eq!(distance(1, u32::MAX), 0);
/// ```
pub fn distance(a: u32, b: u32) -> u32 {
    let distance = b.wrapping_sub(a);
    if distance < 1 << 31 { distance } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_circle_away_is_neither_before_nor_behind() {
        assert!(!is_before(0, 1 << 31));
        assert!(!is_before(1 << 31, 0));
        assert!(is_before(0, (1 << 31) - 1));
        assert!(is_before(0xffff_fff0, 0x10));
    }
}
