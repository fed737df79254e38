//! `troupe chaos`: faults on purpose, on the host where the target's process runs, and what a
//! client notices of them. What is done to a host's network is in [`cut`].

mod cut;

use std::{
    io::{BufRead, IsTerminal},
    time::Duration,
};

use clap::{Args, ValueEnum};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use troupe_actors::operate::Resource;
use troupe_runtime::wire::operate::Selection;

use self::cut::Cutting;
use super::{
    Failure,
    operate::{Reach, patience},
    print, say,
};
use crate::{
    chaos::{
        process::Signal,
        report::{self, Run},
        stream::{Question, Streamed, placed, watch_resumes},
        target::{Found, Target},
    },
    client::{
        http::HttpClient,
        operate::{columns::at, session::Session},
    },
};

/// Kill or freeze a part of the cluster on purpose, or cut it off.
///
/// Works on processes of this host, and on this host's network. With --at-token it does it in the
/// middle of a stream that it opens itself, again for each of --runs, and says what came of the
/// stream.
#[derive(Args, Debug)]
pub(crate) struct Chaos {
    /// What is done to it.
    #[arg(value_enum)]
    deed: Deed,
    /// GROUP/MEMBER, node/NAME, gateway/NAME, controller (the control host that answers), or
    /// stream/MEMBER, which is of the group that answers the stream of --at-token. All but heal
    /// need one.
    #[arg(long, value_name = "TARGET")]
    target: Option<Target>,
    /// How long it is frozen or cut off [default: until it is thawed or healed, or until the
    /// stream has ended].
    #[arg(long = "for", value_name = "TIME", value_parser = patience)]
    period: Option<Duration>,
    /// Only say what it would be done to.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    cutting: Cutting,
    #[command(flatten)]
    during: During,
    #[command(flatten)]
    reach: Reach,
}

/// A signal, in an operator's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Deed {
    /// It ends as by a power cut (SIGKILL).
    Kill,
    /// It stands still and does not know (SIGSTOP).
    Freeze,
    /// It goes on (SIGCONT).
    Thaw,
    /// Its host does not hear the others, nor they it (nft, as root).
    Cut,
    /// Nothing is cut off on this host any more.
    Heal,
}

/// The stream during which it is done.
#[derive(Args, Debug)]
struct During {
    /// Do it when this token of a stream has come; 1 is the first.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    at_token: Option<u32>,
    /// How many times, each with a stream of its own.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "at_token",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// The gateway that is asked.
    #[arg(long, value_name = "URL", default_value = "http://localhost:8000")]
    url: String,
    /// The gateway's key, if it has one.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Which model [default: the first that is served].
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// What it is asked.
    #[arg(long, value_name = "TEXT", default_value = "Once upon a time")]
    prompt: String,
    /// How many tokens.
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// What chance begins with.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How freely tokens are chosen; 0 is always the likeliest.
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f32,
    /// json [default: a table].
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

/// Something that was done.
struct Done {
    found: Found,
    at: Instant,
}

// === impl Chaos ===

impl Chaos {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        if self.period.is_some() && !matches!(self.deed, Deed::Freeze | Deed::Cut) {
            return Err(Failure::usage("--for is how long something is frozen or cut off"));
        }
        if self.cutting.is_said() && self.deed != Deed::Cut {
            return Err(Failure::usage("--from and --etcd go with cut"));
        }
        if self.during.at_token.is_some() && !matches!(self.deed, Deed::Kill | Deed::Freeze) {
            return Err(Failure::usage("--at-token goes with kill and freeze"));
        }
        match (&self.target, self.deed) {
            (Some(_), Deed::Heal) => Err(Failure::usage(
                "heal takes no --target: it undoes all that is cut on this host",
            )),
            (None, Deed::Heal) if self.dry_run => {
                print("all that is cut off on this host healed (dry run)\n");
                Ok(())
            }
            (None, Deed::Heal) => cut::heal(),
            (None, _) => Err(Failure::usage("--target is needed: what it is done to")),
            (Some(target), _) => {
                let session = self.reach.session().await?;
                match self.during.at_token {
                    Some(token) => self.in_streams(target, &session, token as usize).await,
                    None => self.once(target, &session).await,
                }
            }
        }
    }

    async fn once(&self, target: &Target, session: &Session) -> Result<(), Failure> {
        let found = target.find(session, self.reach.namespace()).await?;
        if self.deed == Deed::Cut {
            return self.cut(&found, session).await;
        }
        let (what, pid) = (found.what.clone(), found.process.id);
        if self.dry_run {
            print(&format!("{what} {} (dry run): pid {pid}\n", self.deed.done()));
            return Ok(());
        }
        self.confirm(&format!("{} {what}, pid {pid}", self.deed.name()))?;
        self.act(&found)?;
        print(&format!("{what} {}: pid {pid}\n", self.deed.done()));
        match (self.deed, self.period) {
            (Deed::Kill, _) => {
                let how = ended(&found, session).await?;
                print(&format!("{what} ended: {how}\n"));
            }
            (Deed::Freeze, Some(period)) => {
                // Whoever cannot wait wakes it too.
                tokio::select! {
                    () = tokio::time::sleep(period) => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
                match found.process.signal(Signal::Continue) {
                    Ok(()) => print(&format!("{what} {}: pid {pid}\n", Deed::Thaw.done())),
                    Err(why) => say(&format!("{what} cannot be thawed: {why}")),
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn cut(&self, found: &Found, session: &Session) -> Result<(), Failure> {
        let cut = self.cutting.around(session).await?;
        if self.dry_run {
            let (what, pid, whom) = (&found.what, found.process.id, self.cutting.whom());
            print(&format!("the host of {what} cut off from {whom} (dry run): pid {pid}\n"));
            return Ok(());
        }
        self.confirm(&self.cutting.question(found))?;
        self.cutting.act(found, &cut, self.period).await
    }

    fn act(&self, found: &Found) -> Result<(), Failure> {
        let failed = |why| Failure::told(format!("error: {}: {why}", found.what));
        let Some(signal) = self.deed.signal() else {
            return Err(Failure::usage("--at-token goes with kill and freeze"));
        };
        found.process.signal(signal).map_err(failed)
    }

    fn confirm(&self, what: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            let why = format!("{what}: nobody can be asked here; --yes does it without");
            return Err(Failure::usage(why));
        }
        say(&format!("{what}? [y/N]"));
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        read.map_err(|error| Failure::run(format!("the answer cannot be read: {error}")))?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::run("nothing was done")),
        }
    }

    /// Does it in streams, one after the other, and says what came of them.
    async fn in_streams(
        &self,
        target: &Target,
        session: &Session,
        token: usize,
    ) -> Result<(), Failure> {
        let client = HttpClient::new(&self.during.url, self.during.api_key.clone());
        let question = self.during.question(&client).await?;
        if token >= question.max_tokens {
            let most = question.max_tokens;
            return Err(Failure::usage(format!(
                "--at-token {token}: the stream has {most} tokens"
            )));
        }
        if self.dry_run {
            let what = format!("{target} {}", self.deed.done());
            print(&format!("{what} at token {token} (dry run)\n"));
            return Ok(());
        }
        let times = self.during.runs;
        self.confirm(&format!("{} {target}, {times} times", self.deed.name()))?;
        let failed = |why: String| Failure::run(format!("{}: {why}", client.base()));
        let undisturbed = question.ask(&client, async |_, _| Ok(())).await.map_err(failed)?;
        if let Some(error) = undisturbed.error {
            return Err(failed(format!("the undisturbed stream fails: {error}")));
        }
        let (mut runs, mut ends) = (Vec::new(), Ok(()));
        for _ in 0..times {
            let run =
                self.one_run(target, (session, &client), &question, token, &undisturbed.tokens);
            match run.await {
                Ok(run) => runs.push(run),
                Err(failure) => {
                    ends = Err(failure);
                    break;
                }
            }
        }
        match (&self.during.output, runs.is_empty()) {
            (_, true) => {}
            (Some(_), _) => print(&format!("{:#}\n", report::json(&runs))),
            (None, _) => print(&report::table(&runs)),
        }
        for (number, run) in (1..).zip(&runs) {
            let how = run.ended.as_deref().unwrap_or("goes on");
            say(&format!("run {number}: {} (pid {}): {how}", run.what, run.process));
            if let Some(error) = &run.outcome.error {
                say(&format!("run {number}: the stream broke: {error}"));
            }
        }
        let damaged = runs.iter().filter(|run| run.outcome.is_damaged()).count();
        match damaged {
            0 => ends,
            _ => Err(Failure::run(format!("{damaged} of {} streams were damaged", runs.len()))),
        }
    }

    async fn one_run(
        &self,
        target: &Target,
        (session, client): (&Session, &HttpClient),
        question: &Question,
        token: usize,
        undisturbed: &[u64],
    ) -> Result<Run, Failure> {
        until_whole(session, self.reach.namespace()).await?;
        let mut found = match target {
            Target::Stream(_) => None,
            _ => Some(target.find(session, self.reach.namespace()).await?),
        };
        let mut around = JoinSet::new();
        let (tell, mut noticed) = watch::channel(None);
        around.spawn(watch_resumes(client.clone(), tell));
        let mut done = None;
        let asked = question.ask(client, async |count, request| {
            // Whoever answers is known from the first token on, and is looked up before the deed.
            if let (Target::Stream(member), None) = (target, &found) {
                let answers = self.answering(session, client, request, *member).await;
                found = Some(answers.map_err(|failure| failure.message())?);
            }
            if count == token
                && let Some(found) = found.take()
            {
                let at = Instant::now();
                self.act(&found).map_err(|failure| failure.message())?;
                if let Some(period) = self.period {
                    let process = found.process.clone();
                    around.spawn(async move {
                        tokio::time::sleep(period).await;
                        // It may have been killed for its silence.
                        let _ = process.signal(Signal::Continue);
                    });
                }
                done = Some(Done { found, at });
            }
            Ok(())
        });
        let streamed = asked.await;
        if done.is_some() && streamed.as_ref().is_ok_and(|streamed| streamed.error.is_none()) {
            // The count is looked at less often than tokens come.
            let _ = timeout(LAST_LOOK, noticed.wait_for(Option::is_some)).await;
        }
        let noticed = *noticed.borrow();
        let streamed = streamed.map_err(Failure::run);
        let Some(Done { found, at }) = done else {
            let streamed = streamed?;
            return Err(short(&streamed, token));
        };
        let ended = match self.deed {
            Deed::Kill => Some(ended(&found, session).await?),
            _ => {
                if self.period.is_none() {
                    let _ = found.process.signal(Signal::Continue);
                }
                // A member whose group has gone on without it is at its end.
                let is_over = found.member.is_some() && noticed.is_some();
                let patience = if is_over { PATIENCE } else { LAST_LOOK };
                match found.process.ended(patience).await {
                    true => Some(found.cause(session).await.unwrap_or_else(|| GONE.into())),
                    false => None,
                }
            }
        };
        let outcome = streamed?.held_against(undisturbed, at, noticed);
        Ok(Run { what: found.what, process: found.process.id, ended, outcome })
    }

    /// A member of the group that answers a request.
    async fn answering(
        &self,
        session: &Session,
        client: &HttpClient,
        request: &str,
        member: u32,
    ) -> Result<Found, Failure> {
        let group = placed(client, request).await.map_err(Failure::run)?;
        let (namespace, name) = group.split_once('/').unwrap_or(("default", &group));
        Target::Member(name.to_owned(), member).find(session, namespace).await
    }
}

// === impl Deed ===

impl Deed {
    /// What its process is sent, if it is about a process.
    fn signal(self) -> Option<Signal> {
        match self {
            Self::Kill => Some(Signal::Kill),
            Self::Freeze => Some(Signal::Stop),
            Self::Thaw => Some(Signal::Continue),
            Self::Cut | Self::Heal => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Cut => "cut",
            Self::Heal => "heal",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Freeze => "frozen",
            Self::Thaw => "thawed",
            Self::Cut => "cut off",
            Self::Heal => "healed",
        }
    }
}

// === impl During ===

impl During {
    async fn question(&self, client: &HttpClient) -> Result<Question, Failure> {
        let model = match self.model.clone() {
            Some(model) => model,
            None => {
                let models = client.models().await.map_err(Failure::run)?;
                let first = models.into_iter().next();
                first.ok_or_else(|| Failure::run("the gateway serves no model yet"))?.0
            }
        };
        Ok(Question {
            model,
            prompt: self.prompt.clone(),
            max_tokens: self.max_tokens as usize,
            seed: self.seed,
            temperature: self.temperature,
        })
    }
}

/// Waits until what was killed has ended, and says how.
async fn ended(found: &Found, session: &Session) -> Result<String, Failure> {
    if !found.process.ended(PATIENCE).await {
        let why = format!("error: {} is still there, pid {}", found.what, found.process.id);
        return Err(Failure::told(why));
    }
    if found.member.is_none() {
        return Ok(GONE.into());
    }
    // Its host tells the store, and forgets it once there is another in its place.
    let told = async {
        loop {
            if let Some(cause) = found.cause(session).await {
                return cause;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    Ok(timeout(LAST_LOOK, told).await.unwrap_or_else(|_| GONE.into()))
}

/// Waits until every group of a namespace serves, so that a stream has where to go on.
async fn until_whole(session: &Session, namespace: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + WHOLE;
    loop {
        let kind = Resource::Group.kind().into();
        let namespace = Some(namespace.to_owned());
        let groups = session.objects(Selection { kind, namespace, ..Selection::default() }).await?;
        let serves = |group: &serde_json::Value| {
            let ready = at(group, "/status/ready");
            ready != "0" && ready == at(group, "/status/size")
        };
        let Some(waiting) = groups.iter().find(|group| !serves(group)) else { return Ok(()) };
        if Instant::now() >= deadline {
            let (name, seconds) = (at(waiting, "/metadata/name"), WHOLE.as_secs());
            let why = format!("error: group {name} does not serve again after {seconds} s");
            return Err(Failure::told(why));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn short(streamed: &Streamed, token: usize) -> Failure {
    let (count, why) = (streamed.tokens.len(), streamed.error.as_deref().unwrap_or("it ended"));
    Failure::run(format!("the stream has {count} tokens, not {token}: {why}"))
}

/// What is said of a process that is no more when nobody knows how it ended.
const GONE: &str = "it is gone";
/// A process that is killed is gone at once, unless its kernel waits for a disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what is on its way is waited for.
const LAST_LOOK: Duration = Duration::from_millis(500);
/// How long a group may take to be there again.
const WHOLE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
