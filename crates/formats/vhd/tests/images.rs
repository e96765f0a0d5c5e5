//! What no oracle does: images whose start is damaged, sector bitmaps, parents, hostile values.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use diskimg_core::driver::OpenMode;
use diskimg_core::opener::NoReferences;
use diskimg_core::{BlockDevice, ByteRange, Error, Image, MemDevice, Result};
use diskimg_testkit::{FormatSubject, open_image};
use diskimg_vhd::DRIVER;

const SIZE: u64 = 10 << 20;
const BLOCK: usize = 2 << 20;

fn new_image(options: &'static [&'static str]) -> Vec<u8> {
    FormatSubject::new(&DRIVER, SIZE, options).fresh()[0].to_vec()
}

fn open(image: &[u8]) -> Result<Arc<dyn Image>> {
    open_image(&DRIVER, Arc::new(MemDevice::read_only(image.to_vec())), OpenMode::default(), &NoReferences)
}

fn memory(bytes: &[u8]) -> Arc<MemDevice> {
    let disk = MemDevice::new(0);
    disk.write_at(0, bytes).unwrap();
    Arc::new(disk)
}

fn open_for_writing(disk: &Arc<MemDevice>) -> Result<Arc<dyn Image>> {
    let mode = OpenMode { write: true, ..OpenMode::default() };
    open_image(&DRIVER, Arc::clone(disk) as _, mode, &NoReferences)
}

fn message(result: Result<Arc<dyn Image>>) -> String {
    result.err().as_ref().map(Error::joined).unwrap_or_default()
}

fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = !bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add((*byte).into()));
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn the_footer_at_the_end_is_enough() {
    let mut image = new_image(&["force_size=on"]);
    let good = image[..512].to_vec();
    image[..512].fill(0x55);
    let disk = memory(&image);
    let opened = open_for_writing(&disk).unwrap();
    assert_eq!(opened.len(), SIZE);
    assert_eq!(disk.to_vec()[..512], [0x55; 512], "opening writes nothing");
    opened.write_at(3 << 20, &[7; 512]).unwrap();
    assert_eq!(disk.to_vec()[..512], good);
    drop(opened);
    let image = disk.to_vec();
    assert_eq!(image[image.len() - 512..], good);
    let mut sector = [0; 512];
    open(&image).unwrap().read_at(3 << 20, &mut sector).unwrap();
    assert_eq!(sector, [7; 512]);
}

#[test]
fn bytes_between_the_last_block_and_the_footer_do_no_harm() {
    let mut image = new_image(&["force_size=on"]);
    let footer = image.split_off(image.len() - 512);
    image.extend([0x99; 4096]);
    image.extend(&footer);
    let disk = memory(&image);
    let opened = open_for_writing(&disk).unwrap();
    opened.write_at(5 << 20, &[7; 512]).unwrap();
    let mut around = vec![1; 4096];
    opened.read_at((5 << 20) - 2048, &mut around).unwrap();
    assert!(around[..2048].iter().chain(&around[2560..]).all(|byte| *byte == 0));
    drop(opened);
    let image = disk.to_vec();
    assert_eq!(image[image.len() - 512..], footer);
    assert_eq!(image.len(), 2048 + 4096 + 512 + BLOCK + 512);
}

#[test]
fn a_write_marks_the_sectors_of_an_old_block() {
    let disk = memory(&new_image(&["force_size=on"]));
    open_for_writing(&disk).unwrap().write_at(0, &[1; 512]).unwrap();
    let bitmap = 2048;
    assert_eq!(disk.to_vec()[bitmap..bitmap + 512], [0xff; 512]);
    disk.write_at(bitmap as u64, &[0x80; 1]).unwrap();
    disk.write_at(bitmap as u64 + 1, &[0; 511]).unwrap();
    let opened = open_for_writing(&disk).unwrap();
    opened.write_at(4096, &[2; 512]).unwrap();
    assert_eq!(disk.to_vec()[bitmap..bitmap + 512], [0xff; 512]);
}

#[test]
fn a_block_in_the_table_is_not_written() {
    let mut image = new_image(&["force_size=on"]);
    image.resize(image.len() + BLOCK, 0);
    image[1536..1540].copy_from_slice(&2_u32.to_be_bytes());
    let disk = memory(&image);
    let opened = open_for_writing(&disk).unwrap();
    assert!(opened.write_at(0, &[1; 512]).is_err());
    drop(opened);
    assert_eq!(disk.to_vec(), image);
}

#[test]
fn a_table_that_is_cut_short_is_refused() {
    let mut image = new_image(&["force_size=on"]);
    image[540..544].copy_from_slice(&0x1fff_ffff_u32.to_be_bytes());
    assert!(message(open(&image)).contains("The image has been truncated."));
    image[528..536].fill(0xff);
    assert_eq!(message(open(&image)), "Error reading pagetable");
}

#[test]
fn a_fixed_disk_that_is_longer_than_its_file_is_only_read() {
    let image = new_image(&["subformat=fixed", "force_size=on"]);
    let disk = memory(&image[(1 << 20)..]);
    let opened = open_for_writing(&disk).unwrap();
    assert_eq!(opened.len(), SIZE);
    assert!(opened.write_at(SIZE - 512, &[1; 512]).is_err());
    opened.read_at(SIZE - 512, &mut [0; 512]).unwrap();
}

/// A differencing image with one block, of which sectors 1 and 9 to 11 are there, and a relative path to `parent`.
fn differencing(parent: &[u8]) -> Vec<u8> {
    let mut image = new_image(&["force_size=on"]);
    let mut footer = image.split_off(image.len() - 512);
    image.extend([0x40, 0x70]);
    image.resize(2560, 0);
    for sector in 0..BLOCK / 512 {
        image.extend([u8::try_from(sector % 250).unwrap() + 1; 512]);
    }
    image[1536..1540].copy_from_slice(&4_u32.to_be_bytes());
    let path: Vec<u8> = ".\\p.vhd".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let at = image.len() as u64;
    let len = u32::try_from(path.len()).unwrap();
    image.extend(path);
    image.resize(usize::try_from(at).unwrap() + 512, 0);
    image[512 + 40..512 + 56].copy_from_slice(&parent[68..84]);
    let mut locator = b"W2ru\0\0\0\x01".to_vec();
    locator.extend(len.to_be_bytes());
    locator.extend([0; 4]);
    locator.extend(at.to_be_bytes());
    image[512 + 576..512 + 600].copy_from_slice(&locator);
    seal(&mut image[512..1536], 36);
    footer[63] = 4;
    footer[68] ^= 1;
    seal(&mut footer, 64);
    image[..512].copy_from_slice(&footer);
    image.extend(footer);
    image
}

#[test]
fn sectors_of_a_differencing_image_are_its_own_or_the_parents() {
    let parent = new_image(&["force_size=on"]);
    let child = open(&differencing(&parent)).unwrap();
    let backing = child.backing().unwrap();
    assert_eq!((backing.name.as_str(), backing.format.as_deref()), ("./p.vhd", Some("vpc")));
    assert_eq!(child.info().unwrap().cluster_size, Some(BLOCK as u64));
    let mut found = Vec::new();
    let mut at = 0;
    while at < child.len() {
        let extent = child.extent_at(ByteRange::from_bounds(at, child.len())).unwrap();
        if extent.is_present() {
            found.push((at / 512, extent.len / 512, extent.host.map(|host| host.offset)));
        }
        at += extent.len;
    }
    assert_eq!(found, [(1, 1, Some(2560 + 512)), (9, 3, Some(2560 + 9 * 512))]);
    let mut bytes = vec![0; 13 * 512];
    child.read_at(0, &mut bytes).unwrap();
    let firsts: Vec<u8> = bytes.iter().step_by(512).copied().collect();
    assert_eq!(firsts, [0, 2, 0, 0, 0, 0, 0, 0, 0, 10, 11, 12, 0]);
}

#[test]
fn another_parent_is_refused() {
    let parent = new_image(&["force_size=on"]);
    let child = open(&differencing(&parent)).unwrap();
    child.accepts_backing(&*open(&parent).unwrap()).unwrap();
    let other = new_image(&["force_size=on"]);
    let error = child.accepts_backing(&*open(&other).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "the parent is not the one that the VHD image was made for");
}

#[test]
fn a_sector_of_a_differencing_image_is_written_where_its_block_is() {
    let parent = new_image(&["force_size=on"]);
    let disk = memory(&differencing(&parent));
    let len = disk.len();
    let child = open_for_writing(&disk).unwrap();
    child.write_at(2 * 512, &[0xee; 512]).unwrap();
    drop(child);
    let image = disk.to_vec();
    assert_eq!((disk.len(), &image[2048..2050]), (len, &[0x60, 0x70][..]));
    assert_eq!(image[2560 + 2 * 512..2560 + 3 * 512], [0xee; 512]);
}

#[test]
fn one_without_a_name_of_its_parent_is_refused() {
    let parent = new_image(&["force_size=on"]);
    let mut image = differencing(&parent);
    image[512 + 576] = 0;
    assert_eq!(message(open(&image)), "the differencing VHD image does not name its parent");
}
