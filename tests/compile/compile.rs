//! What the compiler says of common slips leads to the remedy, and the remedy compiles.

#[test]
fn slips_lead_to_their_remedy() {
    let programs = trybuild::TestCases::new();
    programs.pass("cases/remedies.rs");
    programs.compile_fail("cases/slip_*.rs");
}
