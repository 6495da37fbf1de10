//! Benchmark programs for `cargo xtask bench-check`, which counts the instructions of each operation.

/// A prepared operation that can be repeated.
pub type Operation = Box<dyn FnMut()>;

/// Carries out `--count OPERATION TIMES` or `--names`, if the program was started with one of them. Returns false
/// otherwise.
///
/// # Panics
/// If the arguments are invalid.
pub fn counted(names: &[&str], operation: impl Fn(&str) -> Operation) -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [count, name, times, ..] if count == "--count" => {
            let mut operation = operation(name);
            (0..times.parse::<u64>().expect("a number of times")).for_each(|_| operation());
        }
        [option, ..] if option == "--names" => names.iter().for_each(|name| println!("{name}")),
        _ => return false,
    }
    true
}
