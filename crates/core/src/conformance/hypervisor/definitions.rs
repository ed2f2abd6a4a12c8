//! Rules for definitions, and for the disks of guests that are shut off.

use std::path::Path;

use super::{Check, DISKS, Dump, Fixture, inactive, is, live, look, session, stop, suspend};
use crate::conformance::{Verdict, ensure, fails, is_error, ok, rules, same};
use crate::definition;
use crate::inventory::GuestState;
use crate::problem::ProblemKind;

pub(super) const RULES: &[(&str, Check)] = rules![
    repointing_changes_one_disk_of_the_next_start,
    a_disk_that_the_guest_has_not_is_not_repointed,
    defining_changes_the_next_start_only,
    what_is_no_definition_is_not_defined,
    an_overlay_is_committed_offline,
    committing_offline_needs_the_overlays_own_base,
    an_overlay_in_use_is_not_committed_offline,
];

fn repointing_changes_one_disk_of_the_next_start(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &DISKS)?;
    let guest = fixture.guest();
    stop(fixture)?;
    let mut wanted = dump.tops();
    wanted.insert("vda".into(), dump.bases["vda"].clone());
    for _ in 0..2 {
        let base = &dump.bases["vda"];
        ok("repoint", fixture.hypervisor().repoint_disk(&guest, "vda", base, "raw"))?;
        same("the disks of the next start", inactive(fixture)?, wanted.clone())?;
    }
    dump.point_back(fixture)?;
    ok("start", fixture.hypervisor().start(&guest, true))?;
    same("the live disks", live(fixture)?, dump.bases)
}

fn a_disk_that_the_guest_has_not_is_not_repointed(fixture: &mut dyn Fixture) -> Verdict {
    let guest = fixture.guest();
    stop(fixture)?;
    let before = inactive(fixture)?;
    let base = before["vda"].clone();
    is_error("repointing", fixture.hypervisor().repoint_disk(&guest, "vdz", &base, "raw"))?;
    same("the disks of the next start", inactive(fixture)?, before)
}

fn defining_changes_the_next_start_only(fixture: &mut dyn Fixture) -> Verdict {
    let (before, session) = (look(fixture)?, session(fixture)?);
    let old = before.inactive_xml.ok_or("a persistent guest must have a definition")?;
    let elsewhere = inactive(fixture)?["vdb"].with_file_name("elsewhere.img");
    let new = definition::repoint_disk(&old, "vdb", &elsewhere, "raw");
    let new = new.map_err(|error| error.to_string())?;
    for _ in 0..2 {
        ok("define", fixture.hypervisor().define(&new))?;
        same("the new disk", inactive(fixture)?["vdb"].as_path(), elsewhere.as_path())?;
        ensure(live(fixture)?["vdb"] != elsewhere, "the live definition must stay")?;
    }
    ok("define the old one", fixture.hypervisor().define(&old))?;
    same("the definition", look(fixture)?.inactive_xml, Some(old))?;
    is(fixture, GuestState::Running)?;
    same("its life", super::session(fixture)?, session)
}

fn what_is_no_definition_is_not_defined(fixture: &mut dyn Fixture) -> Verdict {
    let before = look(fixture)?.inactive_xml;
    for text in ["", "not XML", "<domain/>", "<domain><name>x</name></domain>"] {
        is_error("defining", fixture.hypervisor().define(text))?;
    }
    same("the definition", look(fixture)?.inactive_xml, before)
}

fn an_overlay_is_committed_offline(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &["vda"])?;
    suspend(fixture)?;
    let written = fixture.guest_writes("vda")?;
    stop(fixture)?;
    let (overlay, base) = (&dump.overlays["vda"], &dump.bases["vda"]);
    for _ in 0..2 {
        ok("commit offline", fixture.hypervisor().commit_offline(overlay, base))?;
        same("what the base holds", fixture.read(base)?, written)?;
    }
    dump.point_back(fixture)
}

fn committing_offline_needs_the_overlays_own_base(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &["vda"])?;
    stop(fixture)?;
    let held = fixture.read(&dump.bases["vdb"])?;
    let (overlay, other) = (&dump.overlays["vda"], &dump.bases["vdb"]);
    let committed = fixture.hypervisor().commit_offline(overlay, other);
    fails("committing into another base", committed, ProblemKind::Refused)?;
    same("what that holds", fixture.read(other)?, held)?;
    let absent = fixture.overlay()?;
    let committed = fixture.hypervisor().commit_offline(&absent, Path::new(other));
    fails("committing what is not there", committed, ProblemKind::NotFound)
}

fn an_overlay_in_use_is_not_committed_offline(fixture: &mut dyn Fixture) -> Verdict {
    let dump = Dump::take(fixture, &["vda"])?;
    suspend(fixture)?;
    fixture.guest_writes("vda")?;
    let (overlay, base) = (&dump.overlays["vda"], &dump.bases["vda"]);
    let held = fixture.read(base)?;
    is_error("committing", fixture.hypervisor().commit_offline(overlay, base))?;
    same("what the base holds", fixture.read(base)?, held)?;
    same("the live disks", live(fixture)?, dump.tops())
}
