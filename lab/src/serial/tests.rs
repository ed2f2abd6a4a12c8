//! Logs that grow, are cut in the middle of a line, and are moved aside.

use std::error::Error;
use std::io::Write as _;

use super::*;
use crate::scratch::Scratch;

const LIMIT: Duration = Duration::from_secs(5);
const READY: &str = "WITNESS ready boot=00000000000000ab disks=2 from=fresh count=0\n";

fn said(count: u64) -> String {
    format!("WITNESS boot=00000000000000ab count={count} mismatches=0 dirty_mbps=0 dirty_pages=0\n")
}

#[test]
fn a_log_is_followed_across_its_rotation() -> Result<(), Box<dyn Error>> {
    let scratch = Scratch::new()?;
    let log = scratch.path().join("serial");
    let mut serial = Serial::follow(&log)?;
    let mut file = File::create(&log)?;
    file.write_all(b"[  0.1] kernel words\n")?;
    file.write_all(READY.as_bytes())?;
    let ready = Ready { boot: BootId(0xab), disks: 2, from: From::Fresh, count: 0 };
    assert_eq!(serial.ready(LIMIT)?, ready);

    let half = said(7);
    let (first, rest) = half.split_at(20);
    file.write_all(first.as_bytes())?;
    serial.skip_to_end()?;
    file.write_all(rest.as_bytes())?;
    assert_eq!(serial.count_reaches(7, LIMIT)?.count, 7);

    file.write_all(said(8).as_bytes())?;
    fs::rename(&log, scratch.path().join("serial.0"))?;
    fs::write(&log, said(9))?;
    assert_eq!(serial.count_reaches(8, LIMIT)?.count, 8);
    assert_eq!(serial.count_reaches(9, LIMIT)?.count, 9);
    Ok(())
}

#[test]
fn waiting_wakes_when_the_line_is_written() -> Result<(), Box<dyn Error>> {
    let scratch = Scratch::new()?;
    let log = scratch.path().join("serial");
    let mut serial = Serial::follow(&log)?;
    let writer = std::thread::spawn(move || fs::write(&log, said(3)));
    assert_eq!(serial.count_reaches(3, LIMIT)?.count, 3);
    assert!(matches!(writer.join(), Ok(Ok(()))));
    Ok(())
}

#[test]
fn waiting_in_vain_tells_what_was_said_last() -> Result<(), Box<dyn Error>> {
    let scratch = Scratch::new()?;
    let log = scratch.path().join("serial");
    fs::write(&log, "Kernel panic - not syncing\n")?;
    let mut serial = Serial::follow(&log)?;
    let error = serial.ready(Duration::from_millis(50)).map_err(|error| error.to_string());
    let expected = "no READY within 50ms; last on the serial port:\nKernel panic - not syncing";
    assert_eq!(error, Err(expected.to_owned()));
    Ok(())
}

#[test]
fn a_witness_that_gives_up_ends_the_wait() -> Result<(), Box<dyn Error>> {
    let scratch = Scratch::new()?;
    let log = scratch.path().join("serial");
    fs::write(&log, "WITNESS fatal no disk\n")?;
    let error = Serial::follow(&log)?.ready(LIMIT);
    assert!(matches!(error, Err(SerialError::Fatal(reason)) if reason == "no disk"));
    Ok(())
}
