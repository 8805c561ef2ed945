"""A generated sample of workbooks: 10 sessions, 2,000 tasks, and every kind of text and id that has ever broken something.

It is the same at every run.
"""

from random import Random

from persistence_service.torture.ledger import Record
from tests.e2e.workbooks import Workbook

SESSIONS = 10
TASKS_PER_SESSION = 200
_SEED = 20_240_229
_EXCEL_CELL = 32_767

# One session each; a session id holds no "/". Some differ by case, width, composition or percent-encoding alone.
_SESSION_IDS = (
    "plain-0001",
    "Workbook 1",
    "workbook 1",
    "Ｗorkbook 1",
    "a?status=failed#top",
    "100%",
    "100%25",
    "batch",
    "caf\u00e9 \U0001f3f0",
    "cafe\u0301 \U0001f3f0",
)
# Endings of task ids; "{}" is unique in the sample.
_TASK_IDS = (
    "{}",
    "t{}",
    "T{}",
    "Ｔ{}",
    "{}/x",
    "{}/x/",
    "/{}",
    "{}//..//x",
    "../{}",
    "{}?page=2&page_size=1",
    "{}#fragment",
    "{}%2Fx",
    "{}%252Fx",
    "{}%",
    "{} a  b",
    "{}+a",
    "{};a=b",
    "{}'\"`",
    "{}\\",
    "{}\u00e9",
    "{}e\u0301",
    "{}ß",
    "{}ss",
    "{}\U0001f469\u200d\U0001f680",
    "{}\u202e\u05e9\u05dc\u05d5\u05dd",
    "{}漢字",
    "{}_",
    "{}%_",
    "{}.",
)
# Not made of a pattern: they stand once in the sample.
_SPECIAL_TASK_IDS = ("batch", "...", "null", "漢" * 64, "\U0001f600" * 64)

_WORDS = {
    "en": "The quick brown fox, “jumps” over the lazy dog's back; twice. Press <b>OK</b> &amp; wait…",
    "zh_CN": "巫师在城堡大厅里点燃了最后一支蜡烛，风从破碎的彩窗吹进来。骑士「艾德里安」举起了剑。",
    "zh_TW": "巫師在城堡大廳裡點燃了最後一支蠟燭，風從破碎的彩窗吹進來。",
    "ja": "魔法使いは城の広間で最後のろうそくに火を灯した。ｶﾀｶﾅとひらがな、々〆ヶ。",
    "ko": "마법사는 성의 대전에서 마지막 촛불을 켰다. ㄱㄴㄷ ᄒ\u1161\u11ab",
    "ar": "أشعل الساحر آخر شمعة في قاعة القلعة، \u202bوهبّت الريح\u202c من النافذة ١٢٣.",
    "he": "הקוסם הדליק את הנר האחרון \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "hi": "जादूगर ने किले के हॉल में आखिरी मोमबत्ती जलाई क्षत्रिय",
    "th": "พ่อมดจุดเทียนเล่มสุดท้ายในห้องโถงของปราสาท",
    "emoji": "\U0001f9d9\U0001f3fd\u200d\u2642\ufe0f \U0001f3f0 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1ef\U0001f1f5 1\ufe0f\u20e3",
    "marks": "Z\u0337\u031b\u0350a\u0338\u0301\u0323l\u0335g\u0334o\u0336 A\u030a Å \u212b \ufb01",
}
_AWKWARD = (
    "",
    " ",
    "  blanks at both ends  ",
    "tab\tline\nfeed\r\nboth\rback\vvertical\fform",
    "nul \x00 in the middle",
    "\x00",
    "controls \x01\x02\x1b[31m\x7f\x80\x9f",
    "separators \u2028 \u2029 \u0085 and \ufeff a mark",
    "noncharacters \ufffe \uffff \U0010ffff and \ufffd",
    "'; DROP TABLE translation_tasks; --",
    "\"quoted\", 'quoted', `quoted`, «quoted», back\\slash, \\u0000, \\n",
    '{"json": [1, null, "\\u0000"]}',
    '=HYPERLINK("http://example.com")',
    "%s %d {0} {name} ${var} $player_name|.gold|",
    "</script><!-- <![CDATA[ ]]>",
    "null",
    "NaN",
    "1e400",
)


def sample_workbooks() -> list[Workbook]:
    """The workbooks of the sample."""
    random = Random(_SEED)
    return [_workbook(random, number, session_id) for number, session_id in enumerate(_SESSION_IDS)]


def _workbook(random: Random, number: int, session_id: str) -> Workbook:
    language = list(_WORDS)[number + 1]
    session: Record = {
        "session_id": session_id,
        "filename": f"Sample {number} – {_WORDS[language][:20]}.xlsx",
        "file_path": f"C:\\games\\{number}\\" + "sub folder/" * number + "file.xlsx",
        "game_info": {
            "title": _WORDS[language],
            "source_lang": "en",
            "target_lang": language,
            "empty": {},
            "nested": {"list": [1, -1, 2**63 - 1, -(2**63), 0.1, 1e300, True, None, "\x00", {"": []}]},
            "": "an empty key",
        },
        "llm_provider": ("openai", "anthropic", "human")[number % 3],
        "total_tasks": TASKS_PER_SESSION,
    }
    return Workbook(session, [_task(random, session_id, number, place) for place in range(TASKS_PER_SESSION)])


def _task(random: Random, session_id: str, number: int, place: int) -> Record:
    return {
        "task_id": _task_id(number, place),
        "session_id": session_id,
        "batch_id": f"batch {number}/{place // 20} \u00e9?",
        "sheet_name": ("Sheet 1", "sheet 1", "对话\n第二行", " Sheet 1 ", "")[place // 40],
        "row_index": 2_147_483_647 - place if place % 50 == 0 else place,
        "column_name": ("target", "Ziel  ", "译文")[place % 3],
        "source_text": _text(random, place),
        "context": None if place % 3 else _text(random, place + 1),
        "target_text": _text(random, place + number),
    }


def _task_id(number: int, place: int) -> str:
    if place == TASKS_PER_SESSION - 1 and number < len(_SPECIAL_TASK_IDS):
        return _SPECIAL_TASK_IDS[number]
    # Tasks that follow each other share their number, and so differ in the pattern alone.
    pattern = _TASK_IDS[place % len(_TASK_IDS)]
    return pattern.format(f"{number}-{place // len(_TASK_IDS)}")


def _text(random: Random, place: int) -> str:
    if place % 100 == 17:
        return "字" * _EXCEL_CELL  # as long as a cell of a workbook may be: 98,301 bytes
    if place % 25 == 8:
        return (_WORDS["zh_CN"] + "\n" + _WORDS["ar"] + _WORDS["emoji"]) * 150  # some 30 KB
    if place % 4 == 0:
        return random.choice(_AWKWARD)
    words = random.choice(list(_WORDS.values()))
    return words[random.randrange(10) :] * random.randrange(1, 5)
