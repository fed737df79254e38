//! One of every question of an operator and every answer to one.

use troupe_runtime::wire::{
    join::TokenKind,
    operate::{
        Apply, ApplyHow, Busy, Change, Changed, Cordon, Label, LogLines, Logs, NewToken,
        ObjectName, OperateDown, OperateUp, Outcome, Pause, Planning, Reason, Refusal, Revoke, Run,
        Scale, Selection, Undo,
    },
};

use super::samples::{Sample, sample};

pub(super) fn samples() -> Vec<Sample> {
    let object = || ObjectName::new("LLMInferenceService", "default", "llama");
    let selection = Selection {
        kind: "LLMInferenceService".into(),
        namespace: Some("default".into()),
        name: Some("llama".into()),
        labels: "team=a,!old".into(),
    };
    let dry = |what| sample(OperateUp::Change(Box::new(what), Run::Dry));
    let changed = Changed {
        object: object(),
        outcome: Outcome::Configured,
        document: "{}".into(),
        warnings: vec!["spec.template.nodeName: has no effect".into()],
    };
    let logs = Logs {
        namespace: "default".into(),
        name: "llama-0".into(),
        member: Some(1),
        tail: Some(20),
        follow: true,
    };
    vec![
        sample(OperateUp::Get(selection.clone())),
        sample(OperateUp::Watch(selection)),
        dry(Change::Apply(Apply { documents: vec!["{}".into()], how: ApplyHow::Create })),
        dry(Change::Delete(object())),
        dry(Change::Scale(Scale {
            object: object(),
            replicas: 3,
            expected: Some(2),
            resource_version: Some("7".into()),
        })),
        dry(Change::Label(Label {
            object: object(),
            set: vec![("team".into(), "a".into())],
            remove: vec!["old".into()],
            overwrite: true,
        })),
        dry(Change::Restart(object())),
        dry(Change::Pause(Pause { object: object(), paused: true })),
        dry(Change::Undo(Undo { object: object(), to: Some(2) })),
        dry(Change::Cordon(Cordon { node: "n1".into(), to: Planning::Drained(30) })),
        dry(Change::Token(NewToken {
            kind: TokenKind::Control,
            ttl: 3600,
            uses: 2,
            operator: true,
        })),
        dry(Change::Revoke(Revoke { whom: "n1".into(), reason: "sold".into() })),
        sample(OperateUp::Logs(logs)),
        sample(OperateUp::Top(Busy::Nodes)),
        sample(OperateUp::Top(Busy::Services(Some("default".into())))),
        sample(OperateDown::Object("{}".into())),
        sample(OperateDown::Gone(object())),
        sample(OperateDown::Synced),
        sample(OperateDown::Changed(Box::new(changed))),
        sample(OperateDown::Refused(Refusal::new(Reason::NotFound, "why"))),
        sample(OperateDown::Plan(vec!["default/llama-0 on n1".into()])),
        sample(OperateDown::Log(LogLines {
            member: "llama-0-1".into(),
            lines: vec!["loaded".into()],
        })),
    ]
}
