//! Random changes of inputs, the same for the same seed.

use fastrand::Rng;

/// Longest input.
const BYTES_MAX: usize = 64 * 1024;

/// Changes of one input at most.
const CHANGES_MAX: usize = 6;

/// Numbers at which lengths and offsets go wrong.
const NUMBERS: [u64; 12] =
    [0, 1, 7, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX];

/// Makes inputs from others.
#[derive(Debug)]
pub struct Mutator {
    random: Rng,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    /// Changes `seeds` by the random numbers of `seed`.
    pub fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        Self { random: Rng::with_seed(seed), seeds }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.any_seed();
        for _ in 0..self.random.usize(1..=CHANGES_MAX) {
            self.change(&mut input);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn any_seed(&mut self) -> Vec<u8> {
        match self.seeds.len() {
            0 => vec![],
            seeds => self.seeds[self.random.usize(0..seeds)].clone(),
        }
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.usize(0..=input.len());
        let end = (at + self.random.usize(0..=32)).min(input.len());
        match self.random.u8(0..9) {
            0 if at < input.len() => input[at] ^= 1 << self.random.u8(0..8),
            1 if at < input.len() => input[at] = self.random.u8(..),
            2 => {
                let number = NUMBERS[self.random.usize(0..NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][self.random.usize(0..4)];
                // Fields are aligned in most formats.
                let at = at / width * width;
                let end = (at + width).min(input.len());
                input[at..end].copy_from_slice(&number[..end - at]);
            }
            3 => drop(input.drain(at..end)),
            4 => input.truncate(at),
            5 => {
                let copied = input[at..end].to_vec();
                input.splice(at..at, copied);
            }
            6 => {
                let made: Vec<u8> = (at..end).map(|_| self.random.u8(..)).collect();
                input.splice(at..at, made);
            }
            7 => {
                // A part of another input.
                let other = self.any_seed();
                let from = self.random.usize(0..=other.len());
                let to = (from + self.random.usize(0..=64)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                let from = self.random.usize(0..=input.len());
                let moved = input[at..end].to_vec();
                input.splice(from..from, moved);
            }
        }
    }
}
