//! What a new image draws by chance: identities, times, and sums over them. Nothing else of two images may differ that
//! were made in the same way.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of the start that are looked at: a VMDK's descriptor ends before.
const HEAD: usize = 64 << 10;
/// Bytes of a VHD footer.
const FOOTER: u64 = 512;

/// Where an image holds what it drew. Empty for formats that draw nothing.
pub fn ranges(path: &Path) -> Result<Vec<Range<u64>>, String> {
    let show = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = File::open(path).map_err(show)?;
    let len = file.metadata().map_err(show)?.len();
    let read = |at: u64, most: usize| {
        let mut bytes = vec![0; (len.saturating_sub(at) as usize).min(most)];
        file.read_exact_at(&mut bytes, at).map(|()| bytes).map_err(show)
    };
    let head = read(0, HEAD)?;
    let mut all = Vec::new();
    if head.get(0x40..0x44) == Some(&[0x7f, 0x10, 0xda, 0xbe]) {
        // VDI: the identities of the image and of its last snapshot.
        all.push(392..424);
    }
    for at in [0, len.saturating_sub(FOOTER)] {
        if read(at, 8)? == b"conectix" {
            // VHD: the time; the sum and the identity.
            all.extend([at + 24..at + 28, at + 64..at + 84]);
        }
    }
    if head.starts_with(b"KDMV") || head.starts_with(b"# Disk") {
        // VMDK: the content identifier.
        let at = head.windows(5).position(|text| text == b"\nCID=").map(|at| at + 5);
        all.extend(at.map(|at| at as u64..identifier_end(&head, at) as u64));
    }
    Ok(all)
}

/// Where the identifier at `at` ends. qemu-img writes no leading zeros: behind a shorter one the text stands elsewhere, and
/// all of it is left out.
fn identifier_end(head: &[u8], at: usize) -> usize {
    let text = &head[at..];
    if text.iter().take(8).all(u8::is_ascii_hexdigit) {
        return at + 8;
    }
    at + text.iter().position(|byte| *byte == 0).unwrap_or(text.len()) + 8
}
