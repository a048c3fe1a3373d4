"""Recognise a failure by its words, where no row of the table knows the line.

An unknown failure must not pass for health, so that these patterns are generous: what they accept
is reported as unknown, and only where nothing else in the logs says more.
"""

import builtins
import re

from ropeway.diagnosis.log_lines import LogEntry


def names_exception(message: str) -> bool:
    """Return whether a message is an exception, perhaps after a prefix of unknown form."""
    if _EXCEPTION.match(message) and not _NO_ERROR.match(message):
        return True
    before = (message[: match.start()].rstrip() for match in _LATER_EXCEPTION.finditer(message))
    return any(_BEFORE_EXCEPTION.search(each) and "Warning" not in each for each in before) or (
        _GLUED_EXCEPTION.search(message) is not None
    )


def is_failure(entry: LogEntry) -> bool:
    """Return whether a line reports a failure by its level, or in words where it has no level."""
    if entry.level is not None:
        return entry.level in ("ERROR", "FATAL")
    if entry.code is not None:
        return True
    message = entry.message
    if _SAYS_ERROR.match(message) or _DEATH.search(message):
        return True
    if goes_on(message):
        return False
    return any(
        said is not None
        for said in (
            _BEGINS_WITH_FAILURE.match(message),
            _PROGRAM_FAILS.match(message),
            _END_OF_FAILURE.search(message),
            _BREAKS_DOWN.search(message),
            _CHINESE_FAILURE.search(message),
        )
    )


def goes_on(message: str) -> bool:
    """Return whether a message says that the work goes on all the same, or counts no failure."""
    return _TOLERATED.search(message) is not None


_CHINESE_WORDS = (
    "错误", "失败", "异常", "出错", "报错", "故障", "崩溃", "致命", "意外", "超时", "拒绝", "无法",
    "未能", "不存在", "找不到", "未找到", "没有找到", "未检测到设备", "未检测到 NPU", "未检测到NPU",
    "没有那个", "没有可用", "无可用", "没有权限", "无权限", "不允许", "不支持", "不匹配", "不兼容",
    "不可用", "不可达", "不足", "不够", "耗尽", "磁盘已满", "空间已满", "溢出", "越界", "无效",
    "非法", "未绑定", "损坏", "丢失", "缺失", "缺少", "死锁", "卡死", "挂死", "僵死", "宕机",
    "掉卡", "掉线", "断线", "连接断开", "连接已断开", "连接中断", "服务中断", "训练中断", "被重置",
    "被占用", "被杀", "被终止", "已杀死", "已中止", "已放弃",
)  # fmt: skip
# Fragments of which one is in every line that the patterns below accept. Where there is a choice,
# those with a rare letter: the search for them skips what comes before it.
FAILURE_TEXTS = (
    "ERROR", "Error", "EXCEPTION", "Exception", "FATAL", "Fatal", "CRITICAL", "code is", "code:",
    "code[", "errno", "rrorCode", "rrCode", "ret=", "ret =", "ret[", "ret [", "runtime result =",
    "Interrupt", "Exit", "Other info[", "[E", "what():", "rror:", "rror!", "fatal", "panic",
    "Panic", "raceback (m", "level=e", 'level="e', "error ", "No such ", "no such file",
    "no such process", "no such device", "no such host", "cannot ", "Cannot ", "can't ", "Can't ",
    "could not", "Could not", "couldn't", "Couldn't", "unable to", "Unable to", "fail", "Fail",
    "denied", "refused", "nvalid ", "nknown ", "Illegal", "nrecogni", "nsupported", "not supported",
    "not permitted", "not defined", "is not a docker", "killed", "Killed", "Terminated",
    "terminated", "terminating", "imed out", "timeout", "pull rate", "DEADLY", "tatus: 1039",
    "tatus: 5039", "*** ", "horized", "ack-off", "corrupt", "Corrupt", "segfault", "p divide",
    "core dumped", "unbound", "parameter not", "yntax error", "bad interp", "bad magic", "bad addr",
    "bad subst", "bad file", "bad system", "unexpected", "Hangup", "Quit", "curl: (", "is required",
    "name too long", "list too long", "levels of symb", "already in use", "locked", "space left",
    "Not enough", "reset by peer", "roken pipe", "unreachable", "crashed", "b_init: ", "d_init: ",
    "ead-only file", "died", "virtual method", "nput/output", "directory", "does not exist",
    "too quickly", "xc.", "Empty", "Expired", "resource busy", "file busy", "out of memory",
    "many open files", "No route", "no route", "host is down", "tale file", "quota exc",
    "not connected", "Alarm clock", "Bad system", "breakpoint trap", "Floating", "borted", "Abort",
    "hung", "eadlock", "dead", "is unresp", "not responding", "lost", "Lost con", "abnormally",
    "premature", "gave up", "giving up", "nsufficient", " found", "available", "detected",
    "healthy", "usable", "occurred", "encountered", "eartbeat", "never retrieved", "xception ",
    "nhandled ", "ncaught ", "ERR! ", "error TS", "not ok ", "on signal", "h signal",
    "y signal", "npm error", "rror[E", "error code (", "rrors.", "xceptions.", "FAIL",
    "✗", "✘", "❌", *_CHINESE_WORDS,
)  # fmt: skip

_EXCEPTION = re.compile(
    r"(?:[A-Za-z_][\w.]{0,120})?(?:Error|Exception(?:Group)?|Exit|Interrupt)(?:$|:)"
)
_NOTHING = r"\s*(?:[(\['\"]?(?i:none|null|nil|false|no)[)\]'\"]?|[\d.+-]*|\W*)\s*$"
_NO_ERROR = re.compile(rf"(?:ERROR|Error|Exception):{_NOTHING}")
# After a prefix of unknown form: `111 TimeException: MemcpyAsync failed!`, `step 7: ValueError: x`,
# `Saving ━━━━╸ 40% 0:00:10 OSError: x`.
_LATER_EXCEPTION = re.compile(
    r"(?<![\w.'\"`(])(?:[A-Za-z_]\w{0,60}\.){0,6}"
    r"[A-Z]\w{1,60}(?:Error|Exception(?:Group)?)(?=: \S|$)"
)
_BEFORE_EXCEPTION = re.compile(
    r"^(?!raise$|except$|File$|#)\S{1,60}$|^[\u2801-\u28ff] |[|\])>:%]$|\d{1,3}%.{0,200}$|\.\.\.$"
)
# Glued to what was written before it without an end of line: `Loading 3s leftRuntimeError: x`.
_BUILT_IN = "|".join(
    name
    for name, each in sorted(vars(builtins).items())
    if isinstance(each, type) and issubclass(each, Exception) and name.endswith("Error")
)
_GLUED_EXCEPTION = re.compile(rf"(?<=[a-z0-9.…])(?<![a-z_]\.)(?:{_BUILT_IN})(?=: \S|$)")
# A level or the word "error" where no known head has the level. Not `error: 0.01`, a figure.
_SAYS_ERROR = re.compile(
    r"(?:[^\w\s]{0,3}|.{0,80}[\s\]|)>\d][\[<(]?)(?:ERROR|FATAL|CRITICAL)(?=[\]>):| *])"
    rf"(?! ?[=,:]? ?\d|:{_NOTHING})|ERROR [45]\d\d: "  # wget
    r"|.{0,200}(?:\blevel=\W?(?i:error|fatal|panic|critical)|error code is [1-9]\d{5}(?!\d))"
    r"|.{0,80}(?:错误|失败|异常)[:：](?!\s*(?:0|无)\s*$)"
    r"|(?:[\w./ -]{0,60}: )?(?i:fatal(?: \w+)? error|fatal|error(?: #\d+)?|panic|critical)"
    rf"(?: response from daemon)?(?: ?:|!)(?!{_NOTHING})"
    r"|Traceback \(most recent call last\):"
)
_CHINESE = "|".join(_CHINESE_WORDS)
# Of these there may be none, or a count; with others `未` and `无` say something else.
_COUNTED = "错误|失败|异常|超时|报错|故障|丢失|溢出|死锁|不足"
# What goes on all the same, or counts no failure at all: `0 errors`, not `rank 0 failed`. In
# Chinese also what would be done if something failed, where nothing before it has.
_TOLERATED = re.compile(
    r"(?i)warning: |^[WN]: |warn\(|ignor(?:ed|ing)|skipp|retrying|will retry|fall(?:s|ing)? ?back"
    r"|\b(?:if|unless|whether|in case) (?:\w+ ){1,3}(?:fail|die|crash|hang|is (?:dead|lost|unhea))"
    r"|optional\b|no process found|^nohup: red|^--\w|inappropriate ioctl|is not a tty"
    r"|\b(?:fail|error|timed|dead|lost|kill)\w*(?: \w{1,20}){1,3}: +0(?![\d.]*[1-9])"
    r"|unable to find image '[^']{1,200}' locally"
    r"|(?:(?:^|[=,;:.|>)\]] |[(\[]|\b(?:with|found|had|has|and|are|were) )0|\b(?:no|zero|without))"
    r" (?:\w+ ){0,3}(?:fail|error|timeout|timed out|unreachable|died|dead|crash|lost|kill|hung)"
    r"|(?:(?:fail|error)\w{0,60}|invalid|killed|denied|died|crashed|lost|timed out)['\"]?[:= ]{1,3}"
    r"(?:0(?![\d.]*[1-9x])|(?:no|none|false|null|\[\]|'')[,}]?$)"
    r"|using (?:the |its |built-in )?defaults?\b|\bdefault \w+ (?:is|are) used|defaulting to"
    r"|[,;] (?:using|running on|continuing|proceeding|downloading|creating)\b(?! fail)"
    r"|newly initiali[sz]ed|[,;] (?:then |now |finally )?(?:re)?connected\b"
    r"|\b(?:log ?level|日志级别|日志等级)\W{0,3}(?:is |set to |为)?(?:error|fatal|错误)\W{0,2}$"
    rf"|^(?:(?!{_CHINESE}).){{0,60}}(?:如果|如遇|如有|如出现|若(?!干)|一旦|假如|万一|是否|避免|防止)"
    rf"|(?:出现|发生|遇到?)(?:{_COUNTED})时|(?:{_COUNTED}|中断|断开|断线|存在|找到)"
    r"(?:后|时|则)(?:自动|将|会|可|创建|新建|跳过)|错误(?:级别|等级)|错误码(?:说明|含义|表)"
    r"|(?:启用|开启|(?<!不)支持)(?:错误|失败|异常|超时|断线)(?:检测|检查|重试|重连|处理|恢复)"
    r"|(?:使用|采用|改用|恢复)(?:了)?默认|[,，](?:正在|开始|将)(?:重新)?(?:创建|新建|生成|下载)"
    r"|(?:故障|异常)(?:检测|恢复|诊断|转移|切换|处理)(?!到|失败|异常|出错)|不足 ?\d|重连成功|已恢复"
    r"|次后(?:连接|重连|重试)?成功|忽略|跳过|(?:正在|将|即将|稍后)重试|重试次数|警告|告警"
    rf"|(?<![\d.])0 ?[个次条项处张]\w{{0,4}}?(?:{_CHINESE})"
    rf"|(?:{_CHINESE})\w{{1,6}}(?:[:：=] ?(?:0|无)| ?0 ?[个次条项])[。.]?$"
    r"|(?:没有?|未|无|零|(?:^|[,，:：;；(（=] ?)0 ?)(?:\w{1,4}(?=被))?"
    rf"(?:(?:任何|发生|出现|发现|检测到|见|遇到|产生)[\w ]{{0,8}}?(?:{_COUNTED})|{_CHINESE})"
    rf"|(?:{_COUNTED})\w{{0,6}}[:：=]? ?"
    r"(?:0(?![\d.]*[1-9x])|无(?![法效权可])|\d+ ?(?:s|ms|秒|分钟))"
)
_FAILURE = (
    r"not found|no such|cannot|can't|could not|couldn't|unable to|fail(?:ed|ure)\b|denied|refused"
    r"|invalid|unknown|unrecogni[sz]ed|unsupported|not supported|not permitted|not defined|is not a"
    r"|aborted|killed|terminated|timed out|corrupt|unbound variable|parameter not set|syntax error"
    r"|bad (?:interpreter|magic|address|substitution|file|system)|unexpected|is required|too long"
    r"|already in use|locked|no space|not enough|reset by|broken pipe|unreachable|crashed|has died"
    r"|input/output error|read-only|is a directory|does not exist|watchdog timeout|illegal"
    r"|segmentation fault|\babort\b|pull rate limit|\*\*\* "
)
# `nohup: failed to run command 'vllm'`, `run.sh: line 3: X: unbound variable`.
_PROGRAM_FAILS = re.compile(
    rf"-?(?!\w*(?:args?|config|options?|policy)\b)[\w./+@-]{{1,100}}(?:\[\d{{1,9}}\])?[:：]"
    rf" ?(?:curl: |\(\d{{1,3}}\) |(?i:(?=.{{0,400}}?(?:{_FAILURE}))))"
)
_BEGINS_WITH_FAILURE = re.compile(
    r"(?:[a-z_]\w{0,60}\.){1,8}[A-Z]\w{1,60}(?:: \S|$)"  # `torch._dynamo.exc.Unsupported: x`
    r"|\[Errno [1-9]\d{0,2}\] \S"
    r"|(?:\W{0,3}(?:E: )?)(?i:failed|failure|cannot|can't|could not|couldn't|unable to|unknown"
    r"|unsupported|unrecogni[sz]ed|invalid|no such|not enough|permission denied|access denied"
    r"|connection refused|illegal|corrupted|error (?:\w+ing|in|while|when|at|from)"
    r"|job for \S+ failed|unit \S+ (?:could )?not|dependency failed|unexpected|unauthorized"
    r"|insufficient|back-off restarting"
    r"|[\w.-]{1,40} error(?: at \S+|:)(?!\s*[-+]?(?:\d*\.\d|\d+(?:e[-+]?\d+)?%?$)) ?)"
    r"(?![\w=:'\"`(.-])"
    # apt, npm, rustc, test runners
    r"|E: [A-Z]|(?:npm )?ERR! |npm error |error(?:\[E\d{4}\]| TS\d{4}): |not ok \d"
    r"|\[ ?FAIL(?:ED|URE)? ?\]|FAIL(?:ED)?:? [A-Za-z/]|[✗✘❌]"
)
# How libc and Go put an error of the system into words, most at the end of a line.
_END_OF_FAILURE = re.compile(
    r"(?i)\b(?:is|was|were|be) not found\b"
    r"|(?:no such (?:file or directory|process|device(?: or address)?)|permission denied"
    r"|operation not permitted|operation not supported|not a directory|is a directory"
    r"|cannot allocate memory|out of memory|no space left on device|device or resource busy"
    r"|input/output error|text file busy|file name too long|argument list too long"
    r"|too many open files|connection (?:refused|reset by peer|timed out|aborted)|no route to host"
    r"|network is unreachable|host is down|broken pipe|stale file handle|read-only file system"
    r"|exec format error|i/o timeout|address already in use|cannot assign requested address"
    r"|\bfailed|disk quota exceeded|transport endpoint is not connected"
    r"|resource temporarily unavailable|context deadline exceeded|tls handshake timeout"
    r"|没有那个文件或目录|权限不够|不允许的操作)(?: ?[\[(][^\n]{0,60}[\])])?[.!。]?$"
)
# How engines and launchers say in a sentence that a part broke, stands still or is not there. Of
# GPUs there are none on a host of NPUs.
_PART = r"(?:accelerator|actor|card|chip|device|engine|node|npu|rank|replica|server|worker)"
_BREAKS_DOWN = re.compile(
    r"(?i)\b(?:died|crashed|hung|deadlock(?:ed| detected)|assert(?:ion)? failed|gave up|giving up"
    r"|failed (?:to|with|at|on|in|after|while|during)|errors? (?:occurred|detected|encountered)"
    r"|(?:exited|terminated|ended|stopped|closed|disconnected) (?:unexpected|abnormal|premature)ly"
    r"|is (?:dead|unresponsive|unhealthy|lost)|not responding|lost (?:connection|contact)"
    rf"|(?:connection|heartbeat|link|{_PART})(?: \d{{1,6}})? (?:is |was |has been )?lost"
    r"(?=[^\w ]|$| (?:after|at|during|from|in|on|to|with)\b)"
    r"|(?:died|ended|exited|killed|terminated) (?:by|from|on|with) signal [1-9]\d?"
    r"|exception was never retrieved|HCCL_E_[A-Z_]+"
    r"|(?<!no )(?:(?:unhandled|uncaught) (?:exception|error)"
    r"|exception in (?:thread|callback|event loop|asgi|worker|handler))"
    r"|missed heartbeat|heartbeat (?:missed|timed out|timeout (?:of|from|on|for))"
    r"|timed out(?= (?:waiting|after|while|when)\b|[.!]?$)"
    r"|no (?:(?:ascend|compatible|local|model|npu|suitable|supported|visible) ){0,2}"
    rf"(?:{_PART}|safetensor|weight)s?(?: (?:files?|was|were|is|are)){{0,2}}"
    r" (?:found|available|detected)"
    rf"|no (?:available|healthy|usable) (?:ascend |npu )?{_PART}s?)(?!\w)"
)
# How the kernel, libc and shells report that a process died.
_DEATH = re.compile(
    r"\bthread '[^'\n]{0,80}'(?: \(\d{1,9}\))? panicked at |core dumped"
    r"|\bsegfault at |\btrap (?:invalid opcode|divide error|int3)|terminate called"
    r"|terminating (?:with|due to) |pure virtual method called|: Assertion [`'].{1,400} failed"
    r"|\b(?:free|realloc|malloc|munmap_chunk)\(\): |corrupted (?:double|size)|\w_init: \w+ failed"
    r"|(?:^|line \d{1,6}: +\d{1,9} )(?:Aborted|Terminated|Killed|Hangup|Quit|Bad system call"
    r"|Alarm clock|Broken pipe|(?:Trace/)?[Bb]reakpoint trap|(?:Floating point|Illegal) \w+)\b"
    r"(?: +\(core dumped\)| {2,}|$)|\blarge alloc \d+ bytes == \(?nil"
    r"|\*\*\*: terminated$|==\d{1,9}==ERROR|DEADLYSIGNAL"
    r"|^\[\d{1,4}\][+-]? +(?:\d{1,9} +)?(?:[+-] +)?"
    r"(?:[Kk]illed|[Ee]xit [1-9]|[Aa]bort|[Tt]erminated)\b"
)
_CHINESE_FAILURE = re.compile(_CHINESE)
