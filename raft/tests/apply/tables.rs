//! Commands that create and change tables.

use plexus_model::ErrorKind;

use crate::helpers::*;

#[test]
fn too_many_replicas_are_rejected_with_their_number() {
    let mut manifest = cluster();
    let (kind, message) = reject_with_message(&mut manifest, 80, create_table("u", 4));
    assert_eq!(kind, ErrorKind::InvalidArgument);
    assert!(message.contains("replicas = 4") && message.contains("3 live"), "{message}");
}
