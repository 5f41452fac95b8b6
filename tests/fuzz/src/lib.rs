//! Cuts that targets share: bytes come from a socket in pieces, and no parser may answer differently because of where they end.

use fastrand::Rng;

/// The ends of growing prefixes of something so long, the last of which is the whole. The same bytes are always cut alike, so that a
/// finding can be run again.
pub fn ends(bytes: &[u8]) -> Vec<usize> {
    let mut rng = Rng::with_seed(seed(bytes));
    let step_max = [1, 3, 17, 400][rng.usize(..4)];
    let mut ends = vec![0];
    let mut at = 0;
    while at < bytes.len() {
        at = (at + rng.usize(1..=step_max)).min(bytes.len());
        ends.push(at);
    }
    ends
}

/// The pieces between those ends.
pub fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = ends(bytes);
    (1..ends.len()).map(move |at| &bytes[ends[at - 1]..ends[at]])
}

/// FNV-1a, for it need only be the same on every machine.
fn seed(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
