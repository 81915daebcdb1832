# hookRelay, in perl: answers one hook. RECORD EVENT DIRECTION DEADLINE_MS [wait] in argv, the provider's JSON on stdin,
# the gateway's answer on stdout. The promises are in src/services/HookRelay.ts; one suite holds every client to them.
# No module but strict: IO::Socket alone takes six times as long to load as perl itself takes to start.
use strict;

my %explain = (
  'not-found' => q{no relay record was found; is `holdfast up` running and the run still open?},
  'stale-generation' => q{the relay was replaced by a newer one; start the agent's turn again},
  'dead-owner' => q{the gateway that owned this relay is gone; start it with `holdfast up`},
  'expired' => q{the relay has expired; start the agent's turn again},
  'timeout' => q{no answer came before the deadline; look at `holdfast status`},
  'refused' => q{the gateway does not accept connections; look at `holdfast status`},
  'too-large' => q{the hook's payload is over the size limit},
  'forbidden' => q{the relay refused the caller's credentials; run `holdfast doctor`},
  'malformed' => q{the hook's payload or the relay's answer was not what the protocol asks for},
);
my %cause_of_status = (
  400 => 'malformed', 403 => 'forbidden', 404 => 'not-found', 408 => 'timeout',
  410 => 'stale-generation', 413 => 'too-large', 503 => 'refused',
);
my ($max_payload, $max_answer, $max_record, $max_head, $retry_ms) = (5_000_000, 1_000_000, 4_096, 16_384, 50);

# errno numbers, as Errno would have to be loaded for the names: ESRCH and EINTR are the same everywhere.
my ($ESRCH, $EINTR, $ENOENT) = (3, 4, 2);
my $linux = $^O eq 'linux';
my $EAGAIN = $linux ? 11 : 35;
my $NONBLOCK = $linux ? 2048 : 4;

# Milliseconds that no clock adjustment moves; a hundredth of a second is fine enough for a deadline.
my $clock = 'uptime';
sub now {
  if ($clock eq 'uptime') {
    if (open(my $file, '<', '/proc/uptime')) {
      return $1 * 1000 if (readline($file) || '') =~ /\A([0-9]+(?:\.[0-9]+)?) /;
    }
    $clock = eval { require Time::HiRes; Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()); 1 } ? 'hires' : 'time';
  }
  return $clock eq 'hires' ? Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()) * 1000 : time() * 1000;
}

my $started = now();
binmode STDIN;
binmode STDOUT;
# A provider may close our stdout, a gateway its socket: both are answers to look at, not reasons to die.
$SIG{PIPE} = 'IGNORE';

(@ARGV == 4 || (@ARGV == 5 && $ARGV[4] eq 'wait')) && $ARGV[1] =~ /\A[a-z_]+\z/ && $ARGV[2] =~ /\A(?:closed|open)(?::[a-z-]+)*\z/ && $ARGV[3] =~ /\A[0-9]{1,9}\z/
  or leave(64, "Holdfast: usage: hookRelay RECORD EVENT closed|open[:CAUSE...] DEADLINE_MS [wait]\n");
my ($record_path, $event, $direction, $deadline_ms, $wait) = @ARGV;

# An unexpected death must not pick its own exit status: perl's `die` would take errno, and 2 is a provider's "deny".
eval { main(); 1 } or leave(70, "Holdfast: the hook client failed\n");
leave(70, '');

sub leave {
  my ($status, $text) = @_;
  syswrite(STDERR, $text) if $text ne '';
  exit $status;
}

sub left { return $started + $deadline_ms - now() }

sub fail {
  my ($cause) = @_;
  my $reason = "Holdfast: $explain{$cause} [$cause]";
  my ($way, @except) = split /:/, $direction;
  my $open = $way eq 'open';
  $open = !$open if grep { $_ eq $cause } @except;
  note($cause, $open ? 'open' : 'closed');
  leave(0, '') if $open;
  if ($event eq 'pre_tool_use') {
    say_all(qq({"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"deny","permissionDecisionReason":"$reason"}}));
  }
  if ($event eq 'permission_request') {
    say_all(qq({"hookSpecificOutput":{"hookEventName":"PermissionRequest","decision":{"behavior":"deny","message":"$reason"}}}));
  }
  leave(2, "$reason\n");
}

# A line for the next gateway: nobody else has seen this. Whatever goes wrong with it, the answer is the same.
sub note {
  my ($cause, $way) = @_;
  my ($home, $name) = $record_path =~ m{\A(.*)/bridges/([^/]+)\z}s or return;
  umask 077;
  # Whatever lies there in its place: a link is not followed, and a pipe not waited for. The numbers are Linux's and macOS's.
  my ($append, $create, $nofollow) = $linux ? (1024, 64, 131_072) : (8, 512, 256);
  sysopen(my $log, "$home/undecided.log", 1 | $append | $create | $nofollow | $NONBLOCK, 0600) or return;
  syswrite($log, time() . " $event $way $cause $name\n") if -f $log && -s _ < 65_536;
}

# Writes everything and ends with status 0.
sub say_all {
  my ($text) = @_;
  my $at = 0;
  while ($at < length $text) {
    my $n = syswrite(STDOUT, $text, length($text) - $at, $at);
    if (defined $n) { $at += $n; next }
    if ($! + 0 == $EAGAIN) { leave(70, '') unless ready(*STDOUT, 1); next }
    leave(70, '') unless $! + 0 == $EINTR;
  }
  leave(0, '');
}

# Waits until the handle can be read (or written); false when the deadline came first.
sub ready {
  my ($handle, $write) = @_;
  while ((my $left = left()) > 0) {
    my $bits = '';
    vec($bits, fileno($handle), 1) = 1;
    my $n = $write ? select(undef, $bits, undef, $left / 1000) : select($bits, undef, undef, $left / 1000);
    return 1 if $n > 0;
  }
  return 0;
}

sub read_payload {
  my $payload = '';
  while (1) {
    fail('timeout') unless ready(*STDIN, 0);
    my $n = sysread(STDIN, $payload, 65_536, length $payload);
    next if !defined $n && ($! + 0 == $EINTR || $! + 0 == $EAGAIN);
    fail('malformed') unless defined $n;
    return $payload if $n == 0;
    fail('too-large') if length $payload > $max_payload;
  }
}

# The record's fields, or the cause why there are none.
sub read_record {
  open(my $file, '<', $record_path) or return 'not-found';
  my $text = '';
  while (length $text <= $max_record) {
    my $n = sysread($file, $text, $max_record + 1 - length $text, length $text);
    return 'not-found' unless defined $n;
    last if $n == 0;
  }
  return 'malformed' if length $text > $max_record;
  my %is;
  for (split /\n/, $text) { $is{$1} = $2 if /\A([A-Za-z]+)=(.*)\z/s }
  return 'malformed'
    unless ($is{version} || '') eq '1'
    && ($is{relayId} || '') =~ /\A[A-Za-z0-9._-]{1,128}\z/
    && (defined $is{generation} ? $is{generation} : '') =~ /\A[0-9]{1,15}\z/
    && ($is{pid} || '') =~ /\A[0-9]{1,10}\z/
    && ($is{socketPath} || '') =~ m{\A/[^\x00-\x1f\x7f"\\]{1,106}\z}
    && ($is{token} || '') =~ m{\A[A-Za-z0-9._~+/=-]{1,512}\z}
    && ($is{expiresAt} || '') =~ /\A[0-9]{1,15}\z/;
  return $is{expiresAt} <= time() * 1000 ? 'expired' : \%is;
}

# One try: [answer => body] | [early => cause] before anything was accepted | [final => cause] | [lost] | [busy].
sub attempt {
  my ($payload) = @_;
  my $record = read_record();
  return ('early', $record) unless ref $record;
  socket(my $socket, 1, 1, 0) or return ('early', 'refused');
  fcntl($socket, 4, $NONBLOCK) or return ('early', 'refused');
  my $address = $linux ? pack('S Z108', 1, $record->{socketPath}) : pack('C C Z104', 106, 1, $record->{socketPath});
  unless (connect($socket, $address)) {
    # The gateway's queue of connections is full: it is there, and busy.
    return ('busy') if $! + 0 == $EAGAIN;
    return ('early', !kill(0, $record->{pid}) && $! + 0 == $ESRCH ? 'dead-owner' : 'refused');
  }
  my $request = "POST /v1/hooks/$event HTTP/1.1\r\nhost: holdfast\r\nconnection: close\r\n"
    . "authorization: Bearer $record->{token}\r\nx-holdfast-relay: $record->{relayId}\r\n"
    . "x-holdfast-generation: $record->{generation}\r\ncontent-type: application/json\r\n"
    . 'content-length: ' . length($payload) . "\r\n\r\n" . $payload;
  my $at = 0;
  while ($at < length $request) {
    my $n = syswrite($socket, $request, length($request) - $at, $at);
    if (defined $n) { $at += $n; next }
    next if $! + 0 == $EINTR;
    # Closed while we wrote: an early refusal may still be there to read.
    last unless $! + 0 == $EAGAIN;
    fail('timeout') unless ready($socket, 1);
  }
  my ($answer, $status, $length, $body_at) = ('');
  while (1) {
    fail('timeout') unless ready($socket, 0);
    my $n = sysread($socket, $answer, 65_536, length $answer);
    next if !defined $n && ($! + 0 == $EINTR || $! + 0 == $EAGAIN);
    return ('lost') unless $n;
    return ('final', 'malformed') if length $answer >= 5 && substr($answer, 0, 5) ne 'HTTP/';
    if (!defined $body_at) {
      my $end = index($answer, "\r\n\r\n");
      return ('final', 'malformed') if ($end < 0 ? length $answer : $end) > $max_head;
      next if $end < 0;
      $body_at = $end + 4;
      my $head = substr($answer, 0, $end + 2);
      return ('final', 'malformed') unless $head =~ m{\AHTTP/1\.[01] ([0-9]{3})[ \r]};
      $status = $1;
      return ('final', $cause_of_status{$status} || 'malformed') if $status != 200;
      return ('final', 'malformed') unless $head =~ /\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n/i;
      $length = $1;
      return ('final', 'malformed') if $length > $max_answer;
    }
    next if length($answer) < $body_at + $length;
    my $body = substr($answer, $body_at, $length);
    # Providers run a tool when a hook's stdout is not JSON, so anything but an object or nothing is not passed on.
    return $body =~ /\A(?:\{.*\}\n?)?\z/s ? ('answer', $body) : ('final', 'malformed');
  }
}

sub main {
  my $payload = read_payload();
  # Who waits for a successor takes a gateway that is not there for one that was lost.
  my $accepted = defined $wait;
  while (1) {
    my ($kind, $value) = attempt($payload);
    say_all($value) if $kind eq 'answer';
    fail($value) if $kind eq 'final' || ($kind eq 'early' && !$accepted);
    $accepted = 1 if $kind eq 'lost';
    fail('timeout') if left() <= $retry_ms;
    select(undef, undef, undef, $retry_ms / 1000);
  }
}
