//! Reading an image by pages: to compare it with its manifest, and to write it out as a save image
//! of libvirt's. What is read is compared on the way, page by page.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use vitrify_core::manifest::MemoryImage;
use vitrify_core::name::Bytes;
use vitrify_core::ports::Answer;
use vitrify_core::problem::{Problem, ProblemKind};
use vitrify_core::stream::{PAGE, Place, Writer};

use super::image_file::ImageFile;
use super::mismatch;
use super::paged::{Head, IMAGE, Paged, REST};
use super::pages::{Layout, PageHash, hash};
use crate::files::at;

/// Zero pages of a smaller block are written: a ROM's or a graphics card's memory may not be zeros
/// where a guest is put back into it. All other RAM is, and QEMU takes long to look at each page.
const SMALL_BLOCK: u64 = 64 << 20;
const STEP_PAGES: usize = 256;
/// Buffers between who reads and who writes.
const BUFFERS: usize = 8;
const BUFFER: usize = 2 << 20;

/// Compares all of an image with its manifest.
pub(super) fn verify(image: &Paged, wanted: &MemoryImage, progress: &dyn Fn(Bytes)) -> Answer<()> {
    let source = Source::open(image, wanted)?;
    let mut read = 0;
    source.each_page(&mut |_, _, data| {
        read += if data.is_some() { PAGE as u64 } else { 0 };
        if read.is_multiple_of(16 << 20) {
            progress(Bytes(read));
        }
        Ok(())
    })?;
    progress(wanted.bytes);
    Ok(())
}

/// Writes a save image.
pub(super) fn write(
    image: &Paged,
    wanted: &MemoryImage,
    mut out: File,
    target: &Path,
    progress: &dyn Fn(Bytes),
) -> Answer<()> {
    let source = Source::open(image, wanted)?;
    thread::scope(|scope| {
        let (full, filled) = mpsc::sync_channel::<Vec<u8>>(BUFFERS);
        let (empty, emptied) = mpsc::channel::<Vec<u8>>();
        let writer = scope.spawn(move || {
            for mut buffer in filled {
                out.write_all(&buffer)?;
                buffer.clear();
                // The reader may be done.
                let _ = empty.send(buffer);
            }
            Ok(())
        });
        let mut pipe = Pipe { full, emptied, buffer: Vec::with_capacity(BUFFER) };
        let read = source.stream(image, &mut pipe, progress).and_then(|()| pipe.flush());
        drop(pipe);
        let written = writer.join();
        let written = written.unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")));
        written.map_err(at("cannot write", target))?;
        read
    })?;
    progress(wanted.bytes);
    Ok(())
}

/// Takes a page: its block's index, its place in the block, its content where that is not zeros.
type EachPage<'a> = dyn FnMut(usize, u64, Option<&[u8; PAGE]>) -> Answer<()> + 'a;

/// What is read goes through here to who writes it.
struct Pipe {
    full: mpsc::SyncSender<Vec<u8>>,
    emptied: mpsc::Receiver<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Pipe {
    fn flush_if_full(&mut self) -> Answer<()> {
        if self.buffer.len() < BUFFER - 2 * PAGE { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Answer<()> {
        let next = self.emptied.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER));
        let buffer = std::mem::replace(&mut self.buffer, next);
        // It has failed, and says why when it is joined.
        self.full.send(buffer).map_err(|_| Problem::failed("the save image cannot be written"))
    }
}

/// An image whose root is the manifest's.
struct Source {
    head: Head,
    layout: Layout,
    hashes: Vec<PageHash>,
    file: ImageFile,
    path: std::path::PathBuf,
}

impl Source {
    fn open(image: &Paged, wanted: &MemoryImage) -> Answer<Self> {
        let gone = |problem: Problem| match problem.kind {
            ProblemKind::NotFound => mismatch(&image.file(""), &format!("is not whole: {problem}")),
            _ => problem,
        };
        let found = image.identify().map_err(gone)?;
        if found != *wanted {
            return Err(mismatch(&image.file(""), "is not what was captured"));
        }
        let head = image.head()?;
        let layout = head.layout();
        let hashes = image.hashes(&layout)?;
        let file = image.open(&head).map_err(gone)?;
        Ok(Self { head, layout, hashes, file, path: image.file(IMAGE) })
    }

    /// Calls for each page, in order. Between two blocks nothing is kept.
    fn each_page(&self, each: &mut EachPage<'_>) -> Answer<()> {
        let mut buffer = vec![0; STEP_PAGES * PAGE];
        for (index, block) in self.layout.blocks.iter().enumerate() {
            let first = self.layout.page(index, 0);
            let count = usize::try_from(block.bytes / PAGE as u64).unwrap_or(usize::MAX);
            let hashes = &self.hashes[first..first + count];
            for (step, hashes) in hashes.chunks(STEP_PAGES).enumerate() {
                let page = first + step * STEP_PAGES;
                let bytes = &mut buffer[..hashes.len() * PAGE];
                if hashes.iter().any(|it| *it != PageHash::default()) {
                    self.file
                        .read_exact_at(bytes, (page * PAGE) as u64)
                        .map_err(at("cannot read", &self.path))?;
                }
                for (number, wanted) in hashes.iter().enumerate() {
                    let offset = ((step * STEP_PAGES + number) * PAGE) as u64;
                    if *wanted == PageHash::default() {
                        each(index, offset, None)?;
                        continue;
                    }
                    let data = &bytes.as_chunks::<PAGE>().0[number];
                    if hash(data) != *wanted {
                        return Err(mismatch(&self.path, "is not what was captured"));
                    }
                    each(index, offset, Some(data))?;
                }
            }
        }
        Ok(())
    }

    fn stream(&self, image: &Paged, pipe: &mut Pipe, progress: &dyn Fn(Bytes)) -> Answer<()> {
        pipe.buffer.extend(self.head.container().encode());
        pipe.buffer.extend(&self.head.bytes);
        if let Some(section) = self.head.joint.section {
            self.ram(section, pipe, progress)?;
        }
        pipe.flush()?;
        let path = image.file(REST);
        let mut rest = File::open(&path).map_err(at("cannot read", &path))?;
        loop {
            pipe.buffer.resize(BUFFER, 0);
            let read = rest.read(&mut pipe.buffer).map_err(at("cannot read", &path))?;
            pipe.buffer.truncate(read);
            if read == 0 {
                return Ok(());
            }
            pipe.flush()?;
        }
    }

    fn ram(&self, section: u32, pipe: &mut Pipe, progress: &dyn Fn(Bytes)) -> Answer<()> {
        let blocks = &self.layout.blocks;
        let joint = &self.head.joint;
        let mut writer = Writer::begin(&mut pipe.buffer, section);
        let mut read = 0;
        // What follows may mean the block of the last record: its first page comes once more.
        let mut last = None;
        self.each_page(&mut |block, offset, data| {
            let named = (block, blocks[block].name.as_str());
            if joint.last == Some(block) && offset == 0 {
                last = Some(data.copied());
            }
            match data {
                Some(data) => writer.page(&mut pipe.buffer, named, offset, data),
                None if blocks[block].bytes < SMALL_BLOCK => {
                    writer.filled(&mut pipe.buffer, named, offset, 0);
                }
                None => return Ok(()),
            }
            read += PAGE as u64;
            if read.is_multiple_of(16 << 20) {
                progress(Bytes(read));
            }
            pipe.flush_if_full()
        })?;
        if let (Some(block), Some(data)) = (joint.last, last) {
            let named = (block, blocks[block].name.as_str());
            match data {
                Some(data) => writer.page(&mut pipe.buffer, named, 0, &data),
                None => writer.filled(&mut pipe.buffer, named, 0, 0),
            }
        }
        if joint.place != Place::Records {
            writer.end_records(&mut pipe.buffer);
        }
        if joint.place == Place::Section {
            writer.end(&mut pipe.buffer);
        }
        Ok(())
    }
}
