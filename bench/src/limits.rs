//! The limits of the machine: memory, loopback, synced writes and random reads. They put the other figures in
//! proportion.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use plexus_model::{Error, Result};

use crate::Figure;

const GIB: f64 = (1u64 << 30) as f64;

/// Measures each limit for a few seconds. Files are written to `dir`.
pub(crate) fn measure(dir: &Path) -> Result<Vec<Figure>> {
    let fail = |e: std::io::Error| Error::io("measuring the machine", e);
    Ok(vec![
        Figure::new("limit: memory read, one thread", format!("{:.1} GiB/s", memory_gib_per_s()), ""),
        Figure::new("limit: loopback TCP", format!("{:.1} GiB/s", loopback_gib_per_s().map_err(fail)?), ""),
        Figure::new("limit: fdatasync of 4 KiB", format!("{:.0}/s", syncs_per_s(dir).map_err(fail)?), ""),
        Figure::new(
            "limit: random 4 KiB reads (page cache)",
            format!("{:.0}/s", reads_per_s(dir).map_err(fail)?),
            "",
        ),
    ])
}

/// Sequential reads of 256 MiB, which no cache holds.
fn memory_gib_per_s() -> f64 {
    let data: Vec<u64> = (0..(256 << 20) / 8).collect();
    let started = Instant::now();
    let mut sum = 0u64;
    for _ in 0..4 {
        sum = sum.wrapping_add(data.iter().fold(0, |a, b| a ^ b));
    }
    std::hint::black_box(sum);
    4.0 * 0.25 / started.elapsed().as_secs_f64()
}

/// One TCP connection to this machine.
fn loopback_gib_per_s() -> std::io::Result<f64> {
    const BYTES: usize = 2 << 30;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let chunk = vec![7; 1 << 20];
        for _ in 0..BYTES >> 20 {
            stream.write_all(&chunk)?;
        }
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let started = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    let mut received = 0;
    while received < BYTES {
        match stream.read(&mut buffer)? {
            0 => break,
            n => received += n,
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    sender.join().map_err(|_| std::io::Error::other("the sender panicked"))??;
    Ok(received as f64 / GIB / seconds)
}

/// Appends of 4 KiB, each made durable before the next.
fn syncs_per_s(dir: &Path) -> std::io::Result<f64> {
    let path = dir.join("sync.probe");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let started = Instant::now();
    let mut count = 0u64;
    while started.elapsed() < Duration::from_secs(2) {
        file.write_all_at(&[7; 4096], count * 4096)?;
        file.sync_data()?;
        count += 1;
    }
    std::fs::remove_file(path)?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// Reads of random blocks from a file in the page cache.
fn reads_per_s(dir: &Path) -> std::io::Result<f64> {
    const BLOCKS: u64 = 65_536;
    let path = dir.join("read.probe");
    std::fs::write(&path, vec![7; BLOCKS as usize * 4096])?;
    let file = File::open(&path)?;
    let mut buffer = [0; 4096];
    let mut random = Rng::with_seed(1);
    let started = Instant::now();
    let mut count = 0u64;
    while started.elapsed() < Duration::from_secs(1) {
        file.read_exact_at(&mut buffer, random.u64(..BLOCKS) * 4096)?;
        count += 1;
    }
    std::fs::remove_file(path)?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}
