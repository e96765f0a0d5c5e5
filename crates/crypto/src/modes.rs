//! How the blocks of sectors are chained: XTS, CBC, CTR and ECB over any block cipher.
//!
//! All go through a buffer in batches of [`BATCH`] sectors, side by side, so that the cipher gets many independent
//! blocks at a time. Working memory is on the stack; there is no state between two calls.

use cipher::Block;
use cipher::array::Array;

use crate::blocks::Cipher;
use crate::iv::{BATCH, Iv, IvMaker};
use crate::sector::SECTOR_LEN;

/// Bytes of a batch.
const BATCH_LEN: usize = BATCH * SECTOR_LEN;
/// XTS blocks of a sector.
const XTS_BLOCKS: usize = SECTOR_LEN / 16;

/// Encrypts and decrypts whole sectors in place. `first` is the number of the first one.
pub(crate) trait Transform: Send + Sync {
    fn encrypt(&self, first: u64, buf: &mut [u8]);
    fn decrypt(&self, first: u64, buf: &mut [u8]);
}

/// Hands out the batches of a buffer with the IVs of their sectors.
fn batches(ivs: &IvMaker, first: u64, buf: &mut [u8], mut each: impl FnMut(&mut [Iv], &mut [u8])) {
    let mut sector = first;
    for batch in buf.chunks_mut(BATCH_LEN) {
        let mut room = [Iv::default(); BATCH];
        let ivs_of_batch = room.get_mut(..batch.len() / SECTOR_LEN).unwrap_or_default();
        ivs.fill(sector, ivs_of_batch);
        each(ivs_of_batch, batch);
        sector = sector.wrapping_add(BATCH as u64);
    }
}

fn blocks<C: Cipher>(bytes: &mut [u8]) -> &mut [Block<C>] {
    Array::slice_as_chunks_mut(bytes).0
}

fn xor(bytes: &mut [u8], with: &[u8]) {
    for (byte, other) in bytes.iter_mut().zip(with) {
        *byte ^= other;
    }
}

/// XTS; blocks have 16 bytes.
pub(crate) struct Xts<C> {
    pub(crate) data: C,
    pub(crate) tweak: C,
    pub(crate) ivs: IvMaker,
}

impl<C: Cipher> Xts<C> {
    fn run(&self, first: u64, buf: &mut [u8], transform: impl Fn(&C, &mut [Block<C>])) {
        batches(&self.ivs, first, buf, |ivs, batch| {
            self.tweak.encrypt_blocks(blocks::<C>(ivs.as_flattened_mut()));
            let tweaks = tweaks(ivs);
            mask(batch, &tweaks);
            transform(&self.data, blocks::<C>(batch));
            mask(batch, &tweaks);
        });
    }
}

/// The tweak of each block (outer) of each sector (inner): multiplied by x in GF(2^128) from one block to the next, as
/// IEEE 1619 has it. Halves that stand side by side are what the compiler does several of at once.
fn tweaks(first: &[Iv]) -> [[u128; BATCH]; XTS_BLOCKS] {
    let (mut low, mut high) = ([0u64; BATCH], [0u64; BATCH]);
    for ((low, high), iv) in low.iter_mut().zip(&mut high).zip(first) {
        let (bytes, _) = iv.as_chunks::<8>();
        if let [lower, upper] = bytes {
            (*low, *high) = (u64::from_le_bytes(*lower), u64::from_le_bytes(*upper));
        }
    }
    let mut all = [[0; BATCH]; XTS_BLOCKS];
    for row in &mut all {
        for ((tweak, low), high) in row.iter_mut().zip(&low).zip(&high) {
            *tweak = u128::from(*high) << 64 | u128::from(*low);
        }
        for (low, high) in low.iter_mut().zip(&mut high) {
            let overflow = 0u64.wrapping_sub(*high >> 63) & 0x87;
            *high = *high << 1 | *low >> 63;
            *low = *low << 1 ^ overflow;
        }
    }
    all
}

fn mask(batch: &mut [u8], tweaks: &[[u128; BATCH]; XTS_BLOCKS]) {
    for (at, sector) in batch.chunks_exact_mut(SECTOR_LEN).enumerate() {
        for (block, row) in sector.as_chunks_mut::<16>().0.iter_mut().zip(tweaks) {
            let tweak = row.get(at).copied().unwrap_or_default();
            *block = (u128::from_le_bytes(*block) ^ tweak).to_le_bytes();
        }
    }
}

impl<C: Cipher> Transform for Xts<C> {
    fn encrypt(&self, first: u64, buf: &mut [u8]) {
        self.run(first, buf, |cipher, blocks| cipher.encrypt_blocks(blocks));
    }

    fn decrypt(&self, first: u64, buf: &mut [u8]) {
        self.run(first, buf, |cipher, blocks| cipher.decrypt_blocks(blocks));
    }
}

/// CBC.
pub(crate) struct Cbc<C> {
    pub(crate) data: C,
    pub(crate) ivs: IvMaker,
}

impl<C: Cipher> Transform for Cbc<C> {
    /// A block needs its predecessor, so the blocks at the same place of all sectors go together.
    fn encrypt(&self, first: u64, buf: &mut [u8]) {
        let block_len = C::block_size();
        let per_sector = SECTOR_LEN / block_len;
        batches(&self.ivs, first, buf, |ivs, batch| {
            let mut last: [Block<C>; BATCH] = std::array::from_fn(|_| Block::<C>::default());
            let last = last.get_mut(..ivs.len()).unwrap_or_default();
            for (last, iv) in last.iter_mut().zip(ivs) {
                xor(last, iv);
            }
            let all = blocks::<C>(batch);
            for at in 0..per_sector {
                for (last, block) in last.iter_mut().zip(all.iter().skip(at).step_by(per_sector)) {
                    xor(last, block);
                }
                self.data.encrypt_blocks(last);
                for (last, block) in last.iter().zip(all.iter_mut().skip(at).step_by(per_sector)) {
                    block.copy_from_slice(last);
                }
            }
        });
    }

    fn decrypt(&self, first: u64, buf: &mut [u8]) {
        let block_len = C::block_size();
        batches(&self.ivs, first, buf, |ivs, batch| {
            let mut room = [0; BATCH_LEN];
            let sealed = room.get_mut(..batch.len()).unwrap_or_default();
            sealed.copy_from_slice(batch);
            self.data.decrypt_blocks(blocks::<C>(batch));
            let sectors = batch.chunks_exact_mut(SECTOR_LEN).zip(sealed.chunks_exact(SECTOR_LEN));
            for ((sector, sealed), iv) in sectors.zip(ivs) {
                let (head, tail) = sector.split_at_mut(block_len.min(SECTOR_LEN));
                xor(head, iv);
                xor(tail, sealed);
            }
        });
    }
}

/// A counter of the block's size, big-endian, that starts at the IV.
pub(crate) struct Ctr<C> {
    pub(crate) data: C,
    pub(crate) ivs: IvMaker,
}

impl<C: Cipher> Ctr<C> {
    fn run(&self, first: u64, buf: &mut [u8]) {
        let block_len = C::block_size();
        batches(&self.ivs, first, buf, |ivs, batch| {
            let mut room = [0; BATCH_LEN];
            let stream = room.get_mut(..batch.len()).unwrap_or_default();
            for (sector, iv) in stream.chunks_exact_mut(SECTOR_LEN).zip(ivs) {
                // In the upper bytes; the lower ones of a short block count on without being seen.
                let step = 1_u128 << (8 * (iv.len() - block_len.min(iv.len())));
                let mut counter = u128::from_be_bytes(*iv);
                for block in sector.chunks_exact_mut(block_len) {
                    for (byte, new) in block.iter_mut().zip(counter.to_be_bytes()) {
                        *byte = new;
                    }
                    counter = counter.wrapping_add(step);
                }
            }
            self.data.encrypt_blocks(blocks::<C>(stream));
            xor(batch, stream);
        });
    }
}

impl<C: Cipher> Transform for Ctr<C> {
    fn encrypt(&self, first: u64, buf: &mut [u8]) {
        self.run(first, buf);
    }

    fn decrypt(&self, first: u64, buf: &mut [u8]) {
        self.run(first, buf);
    }
}

/// Each block by itself.
pub(crate) struct Ecb<C> {
    pub(crate) data: C,
}

impl<C: Cipher> Transform for Ecb<C> {
    fn encrypt(&self, _: u64, buf: &mut [u8]) {
        self.data.encrypt_blocks(blocks::<C>(buf));
    }

    fn decrypt(&self, _: u64, buf: &mut [u8]) {
        self.data.decrypt_blocks(blocks::<C>(buf));
    }
}
