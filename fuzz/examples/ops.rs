//! Shows the operations of an input of `ops_qcow2` and runs them; a failure is made short. Give it a file:
//! `cargo run --example ops artifacts/ops_qcow2/FILE`.

use arbitrary::{Arbitrary, Unstructured};
use diskimg_fuzz::{GEOMETRIES, Input};
use diskimg_testkit::{FormatSubject, Session, run_shrinking};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("the name of an input is missing")?;
    let bytes = std::fs::read(path)?;
    let input = Input::arbitrary_take_rest(Unstructured::new(&bytes))?;
    let options = GEOMETRIES[input.geometry];
    println!("{options:?}, {} bytes: {:#x?}", input.size, input.ops);
    let subject = FormatSubject::new(&diskimg_qcow2::DRIVER, input.size, options);
    run_shrinking(&input.ops, |ops| {
        let mut session = Session::in_memory(&subject);
        for op in ops {
            session.must(op);
        }
        session.verify_reopened();
    });
    println!("passed");
    Ok(())
}
