//! Each target for a moment, with a fixed seed, and with every input that one did not stand once.

use std::path::Path;

use plexus_fuzz::{TARGETS, Target, with_stack};

const SEED: u64 = 20_261_130;

/// Random inputs of each target. Planning a statement takes longer.
const INPUTS: u64 = 4_000;
const STATEMENTS: u64 = 1_500;

/// Otherwise only errors would be changed at random.
#[test]
fn valid_inputs_are_taken() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        let total = seeds.len();
        let taken = with_stack(move || seeds.iter().filter(|seed| (target.run)(seed)).count());
        println!("{}: {taken} of {total}", target.name);
        assert!(taken * 10 >= total * 7, "{}: {taken} of {total} are taken", target.name);
    }
}

#[test]
fn targets_stand_what_they_get() {
    for target in TARGETS {
        let inputs = if target.name == "statement" { STATEMENTS } else { INPUTS };
        let outcome = with_stack(move || target.fuzz(SEED, inputs, |_| ()));
        if let Err(finding) = outcome {
            panic!("{} with seed {SEED}: {} by {:?}", target.name, finding.what, finding.input);
        }
    }
}

#[test]
fn targets_stand_what_they_did_not_stand_once() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folders = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path());
    for folder in folders.filter(|path| path.is_dir()) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let target = Target::named(&name).unwrap_or_else(|| panic!("{name} is no target"));
        for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let input = std::fs::read(&file).unwrap();
            if let Err(finding) = with_stack(move || target.try_input(input)) {
                panic!("{}: {}", file.display(), finding.what);
            }
        }
    }
}
