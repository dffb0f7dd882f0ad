//! What the program carries with it, compressed by `build.rs`.

/// The bytes as they were. Empty if they are not what `build.rs` made, which is never so.
pub fn unpack(compressed: &[u8]) -> Vec<u8> {
    miniz_oxide::inflate::decompress_to_vec(compressed).unwrap_or_default()
}
