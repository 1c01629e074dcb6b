//! `plexus-fuzz`: runs a fuzz target for many inputs.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use plexus_fuzz::{TARGETS, Target, with_stack};
use plexus_memory::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Change valid inputs at random, and look for one that a target does not stand
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// Targets; all if none are given
    #[arg(value_parser = PossibleValuesParser::new(TARGETS.map(|target| target.name)))]
    targets: Vec<String>,
    /// Inputs of each target
    #[arg(long, default_value_t = 100_000)]
    inputs: u64,
    /// Seed of the random changes; the time if none is given
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let Arguments { targets, inputs, seed } = Arguments::parse();
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let wanted =
        TARGETS.into_iter().filter(|t| targets.is_empty() || targets.iter().any(|name| name == t.name));
    let mut code = ExitCode::SUCCESS;
    for target in wanted.collect::<Vec<Target>>() {
        let began = Instant::now();
        let outcome = with_stack(move || {
            target.fuzz(seed, inputs, |done| {
                if done.is_power_of_two() && done >= 1024 {
                    eprintln!("{}: {done} of {inputs} inputs", target.name);
                }
            })
        });
        match outcome {
            Ok(()) => println!("{}: {inputs} inputs of seed {seed} in {:?}", target.name, began.elapsed()),
            Err(finding) => {
                let file = format!("{}-{seed}.bin", target.name);
                println!("{}: seed {seed}: {}", target.name, finding.what);
                match std::fs::write(&file, &finding.input) {
                    Ok(()) => println!("the input is in {file}; put it into fuzz/corpus/{}", target.name),
                    Err(error) => println!("{file}: {error}; the input is {:?}", finding.input),
                }
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
