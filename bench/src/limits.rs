//! What the machine can do: memory, loopback, synced writes, random reads.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use plexus_model::{Error, Result};

use crate::Figure;

const GIB: f64 = (1u64 << 30) as f64;

pub fn measure(dir: &Path) -> Result<Vec<Figure>> {
    let fail = |e: std::io::Error| Error::io("measuring the machine", e);
    Ok(vec![
        Figure::new("limit: memory read, one thread", format!("{:.1} GiB/s", memory()), ""),
        Figure::new("limit: loopback TCP", format!("{:.1} GiB/s", loopback().map_err(fail)?), ""),
        Figure::new("limit: fdatasync of 4 KiB", format!("{:.0}/s", syncs(dir).map_err(fail)?), ""),
        Figure::new(
            "limit: random 4 KiB reads (page cache)",
            format!("{:.0}/s", reads(dir).map_err(fail)?),
            "",
        ),
    ])
}

fn memory() -> f64 {
    let data: Vec<u64> = (0..(256 << 20) / 8).collect();
    let started = Instant::now();
    let mut sum = 0u64;
    for _ in 0..4 {
        sum = sum.wrapping_add(data.iter().fold(0, |a, b| a ^ b));
    }
    std::hint::black_box(sum);
    4.0 * 0.25 / started.elapsed().as_secs_f64()
}

fn loopback() -> std::io::Result<f64> {
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

fn syncs(dir: &Path) -> std::io::Result<f64> {
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

fn reads(dir: &Path) -> std::io::Result<f64> {
    const BLOCKS: u64 = 65_536;
    let path = dir.join("read.probe");
    std::fs::write(&path, vec![7; BLOCKS as usize * 4096])?;
    let file = File::open(&path)?;
    let mut buffer = [0; 4096];
    let mut position = 1u64;
    let started = Instant::now();
    let mut count = 0u64;
    while started.elapsed() < Duration::from_secs(1) {
        // A linear congruential generator visits the blocks out of order.
        position = position.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.read_exact_at(&mut buffer, (position >> 33) % BLOCKS * 4096)?;
        count += 1;
    }
    std::fs::remove_file(path)?;
    Ok(count as f64 / started.elapsed().as_secs_f64())
}
