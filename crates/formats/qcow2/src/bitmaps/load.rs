//! Reading the bits of a bitmap, and which clusters it has on the host.

use diskimg_core::{ByteRange, DirtyBitmap, Error, Fields, Result, errno, read_zero_padded, to_usize};

use crate::bitmap_directory::{Bitmap, DataPlace, TABLE_ENTRY, data_bytes_for, data_place};
use crate::image::Qcow2;
use crate::meta::Clusters;

impl Qcow2 {
    /// The places of a bitmap's data, as far as the file has them; `None` for entries that break the rules.
    fn data_places(&self, bitmap: &Bitmap) -> Result<Vec<Option<DataPlace>>> {
        // At most 512 MiB of data: the table is no longer than 8 MiB.
        let len = u64::from(bitmap.table_size) * TABLE_ENTRY;
        let there = len.min(self.storage.len().saturating_sub(bitmap.table_offset));
        let mut bytes = vec![0; to_usize(there / TABLE_ENTRY * TABLE_ENTRY)];
        read_zero_padded(&*self.storage, bitmap.table_offset, &mut bytes)?;
        let entry = |bytes: &[u8]| Fields::new(bytes).u64_be().unwrap_or(0);
        let geo = &self.meta.geo;
        Ok(bytes.chunks_exact(8).map(|bytes| data_place(entry(bytes), geo)).collect())
    }

    /// Reads the bits of a bitmap that is not in use. What lies behind the end of the file is lost, and counts as set.
    pub(super) fn load_bits(&self, bitmap: &Bitmap) -> Result<DirtyBitmap> {
        self.load_trusted(bitmap, |_| true)
    }

    /// The same; the bits in clusters (their host offsets, bytes) that are not `trusted` count as set.
    pub(super) fn load_trusted(&self, bitmap: &Bitmap, trusted: impl Fn(u64) -> bool) -> Result<DirtyBitmap> {
        let unreadable =
            |error: Error| error.context(format!("Could not read bitmap '{}' from image", bitmap.name));
        let bits = DirtyBitmap::new(self.disk_len(), bitmap.granularity())?;
        let geo = &self.meta.geo;
        let total = data_bytes_for(self.disk_len(), bitmap.granularity_bits);
        // What the file does not have of the table is lost too.
        let places = self.data_places(bitmap).map_err(unreadable)?;
        let places = places.into_iter().chain(std::iter::repeat(Some(DataPlace::Ones)));
        let mut bytes = vec![0; to_usize(geo.cluster_size())];
        for (first, place) in (0..total).step_by(to_usize(geo.cluster_size())).zip(places) {
            let count = geo.cluster_size().min(total - first);
            let set = |from: u64| {
                let start = ((first + from) * 8).saturating_mul(bitmap.granularity());
                bits.set(ByteRange::new(start, ((count - from) * 8).saturating_mul(bitmap.granularity())));
            };
            match place {
                None => return Err(unreadable(Error::from_errno(errno::EINVAL))),
                Some(DataPlace::Zeros) => {}
                Some(DataPlace::Ones) => set(0),
                Some(DataPlace::At(offset)) if !trusted(offset) => set(0),
                Some(DataPlace::At(offset)) => {
                    let there = count.min(self.storage.len().saturating_sub(offset));
                    let bytes = bytes.get_mut(..to_usize(there)).unwrap_or_default();
                    if there > 0 {
                        self.storage.read_at(offset, bytes).map_err(unreadable)?;
                        bits.load_bytes(first, bytes);
                    }
                    if there < count {
                        set(there);
                    }
                }
            }
        }
        Ok(bits)
    }

    /// The clusters of a bitmap: its table and its data. Those of a table that can't be read are left where they are.
    pub(super) fn clusters_of(&self, bitmap: &Bitmap) -> Vec<Clusters> {
        let geo = &self.meta.geo;
        let table = ByteRange::new(bitmap.table_offset, u64::from(bitmap.table_size) * TABLE_ENTRY);
        let file_end = self.storage.len().next_multiple_of(geo.cluster_size());
        let Ok(places) = self.data_places(bitmap) else { return Vec::new() };
        if places.contains(&None) || table.start.saturating_add(table.len) > file_end {
            return Vec::new();
        }
        let data = places.into_iter().filter_map(|place| match place {
            Some(DataPlace::At(offset)) if offset < file_end => {
                Some(Clusters { first: offset >> geo.cluster_bits, count: 1 })
            }
            _ => None,
        });
        std::iter::once(Clusters::holding(geo, table)).chain(data).collect()
    }
}
